"""The primary encoder, which preserves the detail of the image."""

import flax.linen as nn
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.transformer_block import transformer_blocks


class PrimaryEncoder(nn.Module):
    """The first blocks of a masked autoencoder's ViT, without a final norm.

    Attributes:
      width, depth, num_heads, mlp_ratio: Sizes of the transformer; 768, 4, 12 and 4 in `base`.
      remat: Whether to recompute the blocks in the backward pass.
      dtype, precision: See `TransformerBlock`.
    """

    width: int
    depth: int
    num_heads: int
    mlp_ratio: int = 4
    remat: bool = False
    dtype: str = "float32"
    precision: str | None = None

    def setup(self):
        self.blocks = transformer_blocks(
            self.depth,
            self.remat,
            width=self.width,
            num_heads=self.num_heads,
            mlp_ratio=self.mlp_ratio,
            epsilon=1e-6,
            dtype=self.dtype,
            precision=self.precision,
        )

    def __call__(
        self, tokens: Float[Array, "batch tokens embedding"]
    ) -> list[Float[Array, "batch tokens embedding"]]:
        """Returns the tokens after each block, in order."""
        outputs = []
        for block in self.blocks:
            tokens = block(tokens)
            outputs.append(tokens)
        return outputs
