"""Metrics of the differences of single pixels."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

Image = Float[ArrayLike, "height width channels"]


def peak_signal_noise_ratio(
    image: Image,
    reference: Image,
) -> Float[Array, ""]:
    """Returns 10 log10(1 / MSE) in dB, the MSE over all pixels and channels together.

    Infinite for identical images. Equal to scikit-image's `peak_signal_noise_ratio` with
    `data_range=1`.
    """
    return -10 * jnp.log10(jnp.mean((image - reference) ** 2))


def mean_absolute_error(
    image: Image,
    reference: Image,
) -> Float[Array, ""]:
    """Returns the mean of |image - reference| over all pixels and channels."""
    return jnp.mean(jnp.abs(image - reference))
