"""Helpers of several metrics: checks of their arguments, and arithmetic with finite gradients."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from vitdeblur_jax.utils.errors import UserError

Image = Float[ArrayLike, "height width channels"]
RGBImage = Float[ArrayLike, "height width 3"]

_MOST_CHANNELS_FIRST = 4


def check_pair(image: Image, reference: Image, rgb: bool = False) -> None:
    """Checks that two images can be compared.

    An image may be the output of a network and lie far outside of [0, 1]. A reference may not: its
    range shows the scale of both.

    Args:
      image: An image, `(height, width, channels)`.
      reference: An image of the same shape.
      rgb: Whether the images must have three channels.

    Raises:
      UserError: An argument is not a float array of that shape, the shapes differ, or the scale of
        the reference is not [0, 1].
    """
    _check_array(image, "image", rgb)
    check_single(reference, "reference", rgb)
    if image.shape != reference.shape:
        raise UserError(
            f"the image is {_shown(image)}, the reference {_shown(reference)}; metrics compare "
            "images of the same shape"
        )


def check_single(image: Image, name: str = "image", rgb: bool = True) -> None:
    """Checks a single image, including its range; raises `UserError` like `check_pair`."""
    _check_array(image, name, rgb)
    if isinstance(image, jax.core.Tracer):  # a tracer has no values to check
        return
    smallest, largest = float(image.min()), float(image.max())
    if smallest < -1 or largest > 2:
        raise UserError(
            f"metrics take floats in [0, 1]; this {name} ranges from {smallest:.4g} to "
            f"{largest:.4g}"
        )


def _check_array(image, name, rgb):
    if not hasattr(image, "shape") or not hasattr(image, "dtype"):
        raise UserError(f"the {name} is a {type(image).__name__}; metrics take NumPy or JAX arrays")
    if not jnp.issubdtype(image.dtype, jnp.floating):
        scale = {"uint8": 255, "uint16": 65535}.get(image.dtype.name)
        advice = f": divide it by {scale}" if scale else ""
        raise UserError(f"the {name} is {image.dtype}; metrics take floats in [0, 1]{advice}")
    channels = "3 (RGB)" if rgb else "channels"
    wanted = f"the {name} is {_shown(image)}; metrics take height x width x {channels}"
    if image.ndim == 4:
        raise UserError(f"{wanted}; use jax.vmap for a batch")
    if image.ndim != 3 or 0 in image.shape:
        raise UserError(wanted)
    if image.shape[0] <= _MOST_CHANNELS_FIRST < image.shape[-1]:
        raise UserError(f"{wanted}, channels last")
    if rgb and image.shape[-1] != 3:
        raise UserError(wanted)


def _shown(image):
    return " x ".join(map(str, image.shape)) or "a single number"


def positive_power(base: Float[Array, "*shape"], exponent: float) -> Float[Array, "*shape"]:
    """Returns base ** exponent for exponents from 0 to 1, with a gradient of 0 where base is 0."""
    is_positive = base > 0
    # `where` evaluates both branches, and the power's gradient at zero would make the result NaN.
    return jnp.where(is_positive, jnp.where(is_positive, base, 1) ** exponent, 0 * base)


def nan_unless_finite(value: Float[Array, ""], *images: Image) -> Float[Array, ""]:
    """Returns `value`, or NaN if an image is not finite, which max pooling can hide."""
    is_finite = jnp.all(jnp.array([jnp.isfinite(image).all() for image in images]))
    return jnp.where(is_finite, value, jnp.nan)
