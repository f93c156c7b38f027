"""What several metrics share: the arrays they take, and arithmetic with finite gradients."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from vitdeblur_jax.utils.errors import UserError

Image = Float[ArrayLike, "height width channels"]
RGBImage = Float[ArrayLike, "height width 3"]

_MOST_CHANNELS_FIRST = 4


def check_pair(image: Image, reference: Image, rgb: bool = False) -> None:
    """Check that two images can be compared.

    An image may be the output of a network, far from [0, 1]. A reference may not: its range shows
    on which scale both are.

    Args:
      image: `height x width x channels`.
      reference: Likewise.
      rgb: Whether there must be three channels.

    Raises:
      UserError: One is no array of floats of that shape, or the shapes differ, or the reference is
        on another scale than [0, 1].
    """
    _check_array(image, "image", rgb)
    check_single(reference, "reference", rgb)
    if image.shape != reference.shape:
        raise UserError(
            f"the image is {_shown(image)}, the reference {_shown(reference)}; metrics compare "
            "images of one shape"
        )


def check_single(image: Image, name: str = "image", rgb: bool = True) -> None:
    """Check an image that is not the output of a network; raise `UserError` as `check_pair`."""
    _check_array(image, name, rgb)
    if isinstance(image, jax.core.Tracer):  # its values are not there yet
        return
    smallest, largest = float(image.min()), float(image.max())
    if smallest < -1 or largest > 2:
        raise UserError(
            f"metrics take floats in [0, 1]; this {name} goes from {smallest:.4g} to {largest:.4g}"
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
        raise UserError(f"{wanted}; jax.vmap takes them over a batch")
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
    # A zero that is not chosen would still make the gradient NaN.
    return jnp.where(is_positive, jnp.where(is_positive, base, 1) ** exponent, 0 * base)


def nan_unless_finite(value: Float[Array, ""], *images: Image) -> Float[Array, ""]:
    """Returns the value of a network, or NaN if an image is not finite: pooling may hide it."""
    is_finite = jnp.all(jnp.array([jnp.isfinite(image).all() for image in images]))
    return jnp.where(is_finite, value, jnp.nan)
