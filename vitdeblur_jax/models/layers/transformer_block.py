"""The pre-norm Vision Transformer block of both encoders and the decoder."""

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.attention import dot_product_attention
from vitdeblur_jax.models.layers.cpu_remat import gradient_computed_once, remat_on_cpu
from vitdeblur_jax.models.layers.dense import Dense


def layer_norm(epsilon: float, dtype: str = "float32") -> nn.LayerNorm:
    """Returns a LayerNorm with float32 statistics and the variance E[(x - E[x])^2].

    Linen's default, E[x^2] - E[x]^2, loses digits if the mean is large.
    """
    return nn.LayerNorm(epsilon, dtype=dtype, use_fast_variance=False)


class SelfAttention(nn.Module):
    """Multi-head self-attention with biases; one Dense layer computes queries, keys and values."""

    width: int
    num_heads: int
    dtype: str = "float32"
    precision: str | None = None

    def setup(self):
        self.qkv = Dense(3 * self.width, dtype=self.dtype, precision=self.precision)
        self.output = Dense(self.width, dtype=self.dtype, precision=self.precision)

    def __call__(
        self, x: Float[Array, "batch tokens embedding"]
    ) -> Float[Array, "batch tokens embedding"]:
        batch, tokens, width = x.shape
        parts = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, width // self.num_heads)
        query, key, value = parts[:, :, 0], parts[:, :, 1], parts[:, :, 2]
        mixed = dot_product_attention(query, key, value, self.precision)
        return self.output(mixed.reshape(batch, tokens, width))


class Mlp(nn.Module):
    """A linear layer, exact (erf) GELU, and a linear layer."""

    width: int
    ratio: int = 4
    dtype: str = "float32"
    precision: str | None = None

    def setup(self):
        self.fc1 = Dense(self.ratio * self.width, dtype=self.dtype, precision=self.precision)
        self.fc2 = Dense(self.width, dtype=self.dtype, precision=self.precision)

    def __call__(
        self, x: Float[Array, "batch tokens embedding"]
    ) -> Float[Array, "batch tokens embedding"]:
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Attributes:
      width: Channels of a token.
      num_heads: Attention heads; must divide `width`.
      mlp_ratio: Hidden channels of the `Mlp` divided by `width`.
      epsilon: Epsilon of both LayerNorms; 1e-6 in the reference's primary encoder, 1e-5 elsewhere.
      dtype: Dtype of the computation; parameters, norm statistics and softmax are float32.
      precision: Precision of matrix products, see `jax.lax.Precision`.
    """

    width: int
    num_heads: int
    mlp_ratio: int = 4
    epsilon: float = 1e-5
    dtype: str = "float32"
    precision: str | None = None

    def setup(self):
        numerics = {"dtype": self.dtype, "precision": self.precision}
        self.attention_norm = layer_norm(self.epsilon, self.dtype)
        self.attention = SelfAttention(self.width, self.num_heads, **numerics)
        self.mlp_norm = layer_norm(self.epsilon, self.dtype)
        self.mlp = Mlp(self.width, self.mlp_ratio, **numerics)

    def __call__(
        self, x: Float[Array, "batch tokens embedding"]
    ) -> Float[Array, "batch tokens embedding"]:
        return self.transform(x)

    def transform(
        self, x: Float[Array, "batch tokens embedding"]
    ) -> Float[Array, "batch tokens embedding"]:
        """Computes the block; `RematOnCpuBlock` calls it again in the backward pass."""
        x = gradient_computed_once(x)
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class RematOnCpuBlock(TransformerBlock):
    """A `TransformerBlock` with the same parameters that a CPU rematerializes."""

    def __call__(
        self, x: Float[Array, "batch tokens embedding"]
    ) -> Float[Array, "batch tokens embedding"]:
        # A rematerialized block cannot store intermediates.
        if self.is_initializing() or self.is_mutable_collection("intermediates"):
            return self.transform(x)
        block = self.clone(parent=None)

        def apply(params, x):
            return block.apply({"params": params}, x, method=TransformerBlock.transform)

        return remat_on_cpu(apply)(self.variables["params"], x)


def transformer_blocks(depth: int, remat: bool, **block) -> list[TransformerBlock]:
    """Returns `depth` blocks; `remat` recomputes each of them in the backward pass."""
    block_class = _remat_block() if remat else TransformerBlock
    return [block_class(**block) for _ in range(depth)]


def _remat_block() -> type[TransformerBlock]:
    if jax.default_backend() == "cpu":
        return RematOnCpuBlock
    return nn.remat(TransformerBlock, policy=jax.checkpoint_policies.nothing_saveable)
