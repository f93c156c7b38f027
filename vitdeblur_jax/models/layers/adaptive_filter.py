"""Filters that a network predicts for each pixel."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def adaptive_filter(
    image: Float[Array, "batch height width channels"],
    filters: Float[Array, "batch height width kernel_height kernel_width #channels"],
) -> Float[Array, "batch height width channels"]:
    """Filters each pixel with a kernel of its own, from an image extended by its border pixels.

    Args:
      image: any number of channels.
      filters: kernels of odd sides, not flipped: tap (a, b) of a kernel of (2r + 1) x (2s + 1)
        multiplies the pixel at (y + a - r, x + b - s). One for all channels if the last axis is 1.
    """
    height, width = image.shape[1:3]
    rows, columns = filters.shape[3:5]
    before = (rows // 2, columns // 2)
    padded = jnp.pad(image, ((0, 0), *((side, side) for side in before), (0, 0)), mode="edge")
    # A sum of slices is one fused loop; patches of the image would take rows * columns the memory.
    return sum(
        padded[:, a : a + height, b : b + width] * filters[:, :, :, a, b]
        for a in range(rows)
        for b in range(columns)
    )
