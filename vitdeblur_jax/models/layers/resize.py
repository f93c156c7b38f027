"""Resizing by integer factors: bilinear, with half-pixel centers, unless stated otherwise."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float


def enlarge(
    x: Float[Array, "batch height width channels"], factor: int
) -> Float[Array, "batch out_height out_width channels"]:
    """Returns `x` enlarged by bilinear interpolation; border pixels extend it.

    It equals PyTorch's `interpolate` with mode "bilinear" and `align_corners=False`.
    """
    batch, height, width, channels = x.shape
    shape = (batch, factor * height, factor * width, channels)
    return jax.image.resize(x, shape, "linear", precision="highest")


def reduce(
    x: Float[Array, "batch height width channels"], factor: int
) -> Float[Array, "batch out_height out_width channels"]:
    """Returns `x` reduced by bilinear interpolation, without antialiasing.

    It equals PyTorch's `interpolate` with mode "bilinear" and `align_corners=False`: for an even
    factor, each output pixel is the mean of the four pixels around the sampled point.
    """
    batch, height, width, channels = x.shape
    shape = (batch, height // factor, width // factor, channels)
    return jax.image.resize(x, shape, "linear", antialias=False, precision="highest")


def pillow_pyramid(
    image: Float[ArrayLike, "batch height width channels"],
) -> list[Float[Array, "batch _ _ channels"]]:
    """Returns float32 images at quarter, half and full resolution, like Pillow's for 8 bits.

    Pillow's `resize` with `BILINEAR` halves the size: it has taps of 1, 3, 3, 1, filters columns
    first, and rounds to 8 bits after columns and after rows. The gradient ignores the rounding.
    """
    image = jnp.asarray(image, jnp.float32)
    half = _halved(255 * image)
    return [_halved(half) / 255, half / 255, image]


def _halved(levels):
    batch, height, width, channels = levels.shape
    for shape in (
        (batch, height, width // 2, channels),
        (batch, height // 2, width // 2, channels),
    ):
        levels = jax.image.resize(levels, shape, "linear", precision="highest")
        rounded = jax.lax.stop_gradient(jnp.floor(levels + 0.5))
        levels = rounded + (levels - jax.lax.stop_gradient(levels))
    return levels


def nearest_upsample(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch double_height double_width channels"]:
    """Repeats each pixel 2 x 2 times."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


def double_from_corner(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch double_height double_width channels"]:
    """Returns `x` enlarged by 2 as in TensorFlow 1: pixel i samples the input at i / 2.

    Even pixels are copies, odd pixels are the mean of their neighbors. The last pixel is a copy.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        last = jax.lax.slice_in_dim(x, size - 1, size, axis=axis)
        following = jnp.concatenate([jax.lax.slice_in_dim(x, 1, size, axis=axis), last], axis)
        pairs = jnp.stack([x, (x + following) / 2], axis + 1)
        x = pairs.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
    return x
