"""Losses for networks with several outputs: float32 images, one number for each."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitdeblur_jax.metrics.similarity import structural_similarity_gaussian


def mse(
    output: Float[Array, "batch height width 3"], target: Float[Array, "batch height width 3"]
) -> Float[Array, " batch"]:
    """Returns the mean squared difference."""
    return ((output - target) ** 2).mean((1, 2, 3))


def fourier_l1(
    output: Float[Array, "batch height width 3"], target: Float[Array, "batch height width 3"]
) -> Float[Array, " batch"]:
    """Returns the mean absolute differences of the real and the imaginary parts, added.

    The parts are those of the two-dimensional Fourier transform without normalization.
    """
    difference = jnp.fft.fft2(output - target, axes=(1, 2))
    return (jnp.abs(difference.real) + jnp.abs(difference.imag)).mean((1, 2, 3))


def dissimilarity(
    output: Float[Array, "batch height width 3"], target: Float[Array, "batch height width 3"]
) -> Float[Array, " batch"]:
    """Returns 1 - SSIM with the Gaussian window, for a data range of 1."""
    return 1 - jax.vmap(structural_similarity_gaussian)(output, target)
