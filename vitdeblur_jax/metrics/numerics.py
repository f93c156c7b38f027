"""What several metrics share: the arrays they take, and arithmetic with finite gradients."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

Image = Float[ArrayLike, "height width channels"]
RGBImage = Float[ArrayLike, "height width 3"]


def positive_power(base: Float[Array, "*shape"], exponent: float) -> Float[Array, "*shape"]:
    """Returns base ** exponent for exponents from 0 to 1, with a gradient of 0 where base is 0."""
    is_positive = base > 0
    # A zero that is not chosen would still make the gradient NaN.
    return jnp.where(is_positive, jnp.where(is_positive, base, 1) ** exponent, 0 * base)


def nan_unless_finite(value: Float[Array, ""], *images: Image) -> Float[Array, ""]:
    """Returns the value of a network, or NaN if an image is not finite: pooling may hide it."""
    is_finite = jnp.all(jnp.array([jnp.isfinite(image).all() for image in images]))
    return jnp.where(is_finite, value, jnp.nan)
