"""The decoder, which combines primary and contextual tokens into a map of image features."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.dense import Dense
from vitdeblur_jax.models.layers.transformer_block import layer_norm, transformer_blocks


class Decoder(nn.Module):
    """Transformer blocks that each fuse one primary output, in reverse order.

    Attributes:
      width, depth, num_heads, mlp_ratio: Sizes of the transformer.
      patch_stride: Side of the pixel square that each token predicts.
      features: Channels of the feature map.
      remat: Whether to recompute the blocks in the backward pass.
      dtype, precision: See `TransformerBlock`.
    """

    width: int
    depth: int
    num_heads: int
    patch_stride: int
    features: int
    mlp_ratio: int = 4
    remat: bool = False
    dtype: str = "float32"
    precision: str | None = None

    def setup(self):
        numerics = {"dtype": self.dtype, "precision": self.precision}
        self.primary_norm = layer_norm(1e-5, self.dtype)
        self.contextual_norm = layer_norm(1e-5, self.dtype)
        self.fusions = [Fusion(self.width, **numerics) for _ in range(self.depth)]
        self.blocks = transformer_blocks(
            self.depth,
            self.remat,
            width=self.width,
            num_heads=self.num_heads,
            mlp_ratio=self.mlp_ratio,
            **numerics,
        )
        self.norm = layer_norm(1e-5, self.dtype)
        self.prediction = Dense(self.patch_stride**2 * self.features, **numerics)

    def __call__(
        self,
        primary: list[Float[Array, "batch tokens primary_width"]],
        contextual: Float[Array, "batch tokens contextual_width"],
    ) -> Float[Array, "batch side side channels"]:
        """Returns the feature map of a square image; each token gives `patch_stride`^2 pixels.

        Args:
          primary: All outputs of the primary encoder, with class tokens.
          contextual: The tokens h_s, with class token.
        """
        primary = [tokens[:, 1:] for tokens in primary]
        primary[-1] = self.primary_norm(primary[-1])
        x = self.contextual_norm(contextual[:, 1:])
        for fusion, block, tokens in zip(
            self.fusions, self.blocks, reversed(primary), strict=False
        ):
            x = block(fusion(tokens, x))
        return tokens_to_map(self.prediction(self.norm(x)), self.patch_stride)


def tokens_to_map(
    tokens: Float[Array, "batch tokens embedding"], side: int
) -> Float[Array, "batch height width_ channels"]:
    """Arranges tokens, each of `side` x `side` pixels x channels, as one square map."""
    grid = math.isqrt(tokens.shape[1])
    pixels = tokens.reshape(tokens.shape[0], grid, grid, side, side, -1)
    return pixels.transpose(0, 1, 3, 2, 4, 5).reshape(tokens.shape[0], grid * side, grid * side, -1)


class Fusion(nn.Module):
    """LayerNorm and a linear layer on `concatenate([primary, primary, x])`.

    The reference really repeats the primary tokens. Their two parts of the kernel are therefore
    added up before the product, with the norm's scale folded in: a third less work, and the
    parameters stay those of the reference, (2 * primary + x) channels long.
    """

    width: int
    epsilon: float = 1e-5
    dtype: str = "float32"
    precision: str | None = None

    @nn.compact
    def __call__(
        self,
        primary: Float[Array, "batch tokens primary_width"],
        x: Float[Array, "batch tokens embedding"],
    ) -> Float[Array, "batch tokens fused_width"]:
        repeated, total = 2 * primary.shape[-1], 2 * primary.shape[-1] + x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (total,))
        shift = self.param("shift", nn.initializers.zeros, (total,))
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), (total, self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))

        scaled = scale[:, None] * kernel
        primary_kernel = scaled[: repeated // 2] + scaled[repeated // 2 : repeated]
        constant = jnp.matmul(shift, kernel, precision="highest") + bias

        primary, x = primary.astype(jnp.float32), x.astype(jnp.float32)
        mean = (2 * primary.sum(-1, keepdims=True) + x.sum(-1, keepdims=True)) / total
        primary, x = primary - mean, x - mean
        squares = 2 * (primary**2).sum(-1, keepdims=True) + (x**2).sum(-1, keepdims=True)
        inverse = jax.lax.rsqrt(squares / total + self.epsilon)

        numerics = {"dtype": self.dtype, "precision": self.precision}
        dense = Dense(self.width, use_bias=False, **numerics, parent=None)

        def product(tokens, matrix):
            tokens, matrix = (tokens * inverse).astype(self.dtype), matrix.astype(self.dtype)
            return dense.apply({"params": {"kernel": matrix}}, tokens)

        fused = product(primary, primary_kernel) + product(x, scaled[repeated:])
        return fused + constant.astype(self.dtype)
