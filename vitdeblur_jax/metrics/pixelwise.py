"""Metrics of pixelwise differences."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from vitdeblur_jax.metrics.numerics import Image, check_pair


def peak_signal_noise_ratio(
    image: Image,
    reference: Image,
) -> Float[Array, ""]:
    """Returns 10 log10(1 / MSE) in dB, with the MSE over all pixels and channels.

    It is infinite for identical images, with a gradient of 0. It equals scikit-image's
    `peak_signal_noise_ratio` with `data_range=1`.
    """
    check_pair(image, reference)
    error = jnp.mean((image - reference) ** 2)
    is_identical = error == 0
    # `where` evaluates both branches, and the logarithm of zero would make the gradient NaN.
    ratio = -10 * jnp.log10(jnp.where(is_identical, 1, error))
    return jnp.where(is_identical, jnp.inf, ratio)


def mean_absolute_error(
    image: Image,
    reference: Image,
) -> Float[Array, ""]:
    """Returns the mean of |image - reference| over all pixels and channels."""
    check_pair(image, reference)
    return jnp.mean(jnp.abs(image - reference))
