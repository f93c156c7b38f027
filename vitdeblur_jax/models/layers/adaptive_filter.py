"""Filtering with a predicted kernel per pixel."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def adaptive_filter(
    image: Float[Array, "batch height width channels"],
    filters: Float[Array, "batch height width kernel_height kernel_width #channels"],
) -> Float[Array, "batch height width channels"]:
    """Filters each pixel with its own kernel; border pixels extend the image.

    Args:
      image: The image, with any number of channels.
      filters: Kernels of odd sides, not flipped: tap (a, b) of a kernel of (2r + 1) x (2s + 1)
        multiplies the pixel at (y + a - r, x + b - s). If the last axis is 1, all channels share a
        kernel.
    """
    height, width = image.shape[1:3]
    rows, columns = filters.shape[3:5]
    sides = ((side // 2, side // 2) for side in (rows, columns))
    padded = jnp.pad(image, ((0, 0), *sides, (0, 0)), mode="edge")

    # A loop over the rows of the kernels: extracted patches need rows * columns times the memory of
    # the image, and an unrolled sum over all taps compiles slowly with its gradient.
    def add_row(total, row):
        shifted = jax.lax.dynamic_slice_in_dim(padded, row, height, axis=1)
        taps = jax.lax.dynamic_index_in_dim(filters, row, axis=3, keepdims=False)
        products = (shifted[:, :, b : b + width] * taps[:, :, :, b] for b in range(columns))
        return total + sum(products), None

    zeros = jnp.zeros(image.shape, jnp.result_type(image, filters))
    return jax.lax.scan(add_row, zeros, jnp.arange(rows))[0]
