"""The pre-norm Vision Transformer block that both encoders and the decoder are made of."""

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.attention import dot_product_attention
from vitdeblur_jax.models.layers.cpu_products import linear
from vitdeblur_jax.models.layers.cpu_remat import gradient_computed_once, rematerialized


class Dense(nn.Module):
    """A linear layer with the reference's initial values: Xavier uniform, bias zero.

    Linen's own would leave the product and the sum of the bias's gradients to XLA, which takes a
    CPU's slow way for both in half precision; see `vitdeblur_jax.models.layers.cpu_products`.

    Attributes:
      features: channels of the output.
      dtype, precision: see `TransformerBlock`.
      use_bias: add a bias to each channel.
    """

    features: int
    dtype: str = "float32"
    precision: str | None = None
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch features"]:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), shape)
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return linear(x.astype(self.dtype), kernel.astype(self.dtype), bias, self.precision)


def layer_norm(epsilon: float, dtype: str = "float32") -> nn.LayerNorm:
    """Returns a LayerNorm with float32 statistics, the variance taken about the mean.

    Linen's default E[x^2] - E[x]^2 loses digits where the mean is large.
    """
    return nn.LayerNorm(epsilon, dtype=dtype, use_fast_variance=False)


class SelfAttention(nn.Module):
    """Multi-head self-attention with biases; queries, keys and values from one linear layer."""

    width: int
    heads: int
    dtype: str = "float32"
    precision: str | None = None

    def setup(self):
        self.qkv = Dense(3 * self.width, self.dtype, self.precision)
        self.output = Dense(self.width, self.dtype, self.precision)

    def __call__(
        self, x: Float[Array, "batch tokens embedding"]
    ) -> Float[Array, "batch tokens embedding"]:
        batch, tokens, width = x.shape
        parts = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = parts[:, :, 0], parts[:, :, 1], parts[:, :, 2]
        mixed = dot_product_attention(query, key, value, self.precision)
        return self.output(mixed.reshape(batch, tokens, width))


class Mlp(nn.Module):
    """Linear, exact (erf) GELU, linear."""

    width: int
    ratio: int = 4
    dtype: str = "float32"
    precision: str | None = None

    def setup(self):
        self.fc1 = Dense(self.ratio * self.width, self.dtype, self.precision)
        self.fc2 = Dense(self.width, self.dtype, self.precision)

    def __call__(
        self, x: Float[Array, "batch tokens embedding"]
    ) -> Float[Array, "batch tokens embedding"]:
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Attributes:
      width: channels of a token.
      heads: attention heads; divides `width`.
      mlp_ratio: hidden channels of the perceptron over `width`.
      epsilon: of both LayerNorms; 1e-6 in the reference's primary encoder, 1e-5 elsewhere.
      dtype: of the computation; parameters, norms' statistics and softmax are float32.
      precision: of matrix products, as `jax.lax.Precision` names it.
    """

    width: int
    heads: int
    mlp_ratio: int = 4
    epsilon: float = 1e-5
    dtype: str = "float32"
    precision: str | None = None

    def setup(self):
        numerics = {"dtype": self.dtype, "precision": self.precision}
        self.attention_norm = layer_norm(self.epsilon, self.dtype)
        self.attention = SelfAttention(self.width, self.heads, **numerics)
        self.mlp_norm = layer_norm(self.epsilon, self.dtype)
        self.mlp = Mlp(self.width, self.mlp_ratio, **numerics)

    def __call__(
        self, x: Float[Array, "batch tokens embedding"]
    ) -> Float[Array, "batch tokens embedding"]:
        x = gradient_computed_once(x)
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class RematerializedBlock(TransformerBlock):
    """The same block with the same parameters, computed anew in the backward pass."""

    def __call__(
        self, x: Float[Array, "batch tokens embedding"]
    ) -> Float[Array, "batch tokens embedding"]:
        if self.is_initializing():
            return super().__call__(x)
        block = self.clone(parent=None)

        def apply(params, x):
            return block.apply({"params": params}, x, method=TransformerBlock.__call__)

        return rematerialized(apply)(self.variables["params"], x)


def transformer_blocks(depth: int, remat: bool, **block) -> list[TransformerBlock]:
    """Returns `depth` equal blocks; `remat` recomputes each in the backward pass."""
    block_class = RematerializedBlock if remat else TransformerBlock
    return [block_class(**block) for _ in range(depth)]
