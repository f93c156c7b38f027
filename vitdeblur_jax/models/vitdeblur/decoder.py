"""The decoder, which combines primary and contextual tokens into a map of image features."""

import functools
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
      patch_stride: Step between the pixel squares that tokens predict.
      features: Channels of the feature map.
      patch_overlap: Pixels by which each square exceeds `patch_stride` on each side, at most
        `patch_stride`; see `tokens_to_map`. 0 in the published model.
      remat: Whether to recompute the blocks in the backward pass.
      dtype, precision: See `TransformerBlock`.
    """

    width: int
    depth: int
    num_heads: int
    patch_stride: int
    features: int
    patch_overlap: int = 0
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
        side = self.patch_stride + 2 * self.patch_overlap
        self.prediction = Dense(side**2 * self.features, **numerics)

    def __call__(
        self,
        primary: list[Float[Array, "batch tokens primary_width"]],
        contextual: Float[Array, "batch tokens contextual_width"],
    ) -> Float[Array, "batch side side channels"]:
        """Returns the feature map of a square image, `patch_stride` pixels a side per token.

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
        return tokens_to_map(self.prediction(self.norm(x)), self.patch_stride, self.patch_overlap)


def tokens_to_map(
    tokens: Float[Array, "batch tokens embedding"], stride: int, overlap: int = 0
) -> Float[Array, "batch height width_ channels"]:
    """Arranges tokens, each a square of pixels x channels, as one square map.

    Args:
      tokens: Squares of `stride + 2 * overlap` pixels a side, row by row.
      stride: Step between the squares, pixels. The map has `stride` pixels a side per token.
      overlap: Pixels by which each square extends into its neighbours, at most `stride`. Squares
        are added where they overlap; what lies outside the map is cut off.
    """
    batch, grid, side = tokens.shape[0], math.isqrt(tokens.shape[1]), stride + 2 * overlap
    pixels = tokens.reshape(batch, grid, grid, side, side, -1).transpose(0, 1, 3, 2, 4, 5)
    if not overlap:
        return pixels.reshape(batch, grid * stride, grid * stride, -1)
    add = functools.partial(_overlap_added, overlap=overlap)
    return jax.vmap(jax.vmap(add))(jax.vmap(add)(pixels))  # rows, then the columns of each row


def _overlap_added(
    parts: Float[Array, "grid side *others"], overlap: int
) -> Float[Array, "length *others"]:
    """Joins overlapping parts of a line; each reaches `overlap` pixels into both neighbours."""
    before, own, after = jnp.split(parts, [overlap, parts.shape[1] - overlap], axis=1)
    free, others = own.shape[1] - overlap, [(0, 0, 0)] * (parts.ndim - 2)
    zero = jnp.zeros((), parts.dtype)
    # A negative padding drops the part beyond the end of the line.
    own += jax.lax.pad(before, zero, [(-1, 1, 0), (free, 0, 0), *others])
    own += jax.lax.pad(after, zero, [(1, -1, 0), (0, free, 0), *others])
    return own.reshape(-1, *own.shape[2:])


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
