"""Bilinear resizing by whole factors, pixels being squares (half-pixel centers)."""

import jax
from jaxtyping import Array, Float


def enlarge(
    x: Float[Array, "batch height width channels"], factor: int
) -> Float[Array, "batch out_height out_width channels"]:
    """Returns `x` enlarged by bilinear interpolation; border pixels extend it.

    Equals PyTorch's `interpolate` with mode "bilinear" and `align_corners=False`.
    """
    batch, height, width, channels = x.shape
    shape = (batch, factor * height, factor * width, channels)
    return jax.image.resize(x, shape, "linear", precision="highest")


def reduce(
    x: Float[Array, "batch height width channels"], factor: int
) -> Float[Array, "batch out_height out_width channels"]:
    """Returns `x` sampled at every `factor`-th pixel by bilinear interpolation, without a low-pass.

    Equals PyTorch's `interpolate` with mode "bilinear" and `align_corners=False`: for an even
    factor, each pixel is the mean of the four around the sampled point.
    """
    batch, height, width, channels = x.shape
    shape = (batch, height // factor, width // factor, channels)
    return jax.image.resize(x, shape, "linear", antialias=False, precision="highest")
