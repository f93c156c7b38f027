"""Feature similarity: Zhang, Zhang, Mou, Zhang, IEEE TIP 20, 2011; phase congruency after Kovesi.

This is pyiqa's definition (its `fsim` is the chromatic one). The authors' MATLAB code differs in
the rounding and averaging of the down-sampling, the coefficients of I and Q, and the place of an
epsilon. These details change the result by 1e-6 to 1e-3.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vitdeblur_jax.metrics.luminance import chroma, luminance
from vitdeblur_jax.metrics.numerics import RGBImage, check_pair, positive_power

_SCALES, _ORIENTATIONS = 4, 4
_EPSILON = float(np.finfo(np.float32).eps)
_PHASE_CONSTANT, _GRADIENT_CONSTANT, _CHROMA_CONSTANT = 0.85, 160.0, 200.0
_CHROMA_EXPONENT = 0.03
_SCHARR = np.array([[-3, 0, 3], [-10, 0, 10], [-3, 0, 3]]) / 16


def feature_similarity(
    image: RGBImage,
    reference: RGBImage,
    chromatic: bool = True,
) -> Float[Array, ""]:
    """Returns FSIMc, or FSIM if not `chromatic`: at most 1, the value of identical images.

    It compares phase congruency and gradient, weighted by the larger phase congruency of the two
    images. Images are down-sampled to about 256 pixels on the shorter side. The gradient with
    respect to either image is finite everywhere.

    Args:
      image: RGB in [0, 1].
      reference: RGB in [0, 1].
      chromatic: Whether to also compare I and Q of YIQ.
    """
    check_pair(image, reference, rgb=True)
    one, other = features(image), features(reference)
    weight = jnp.maximum(one.phase_congruency, other.phase_congruency)
    similarity = _similar(one.phase_congruency, other.phase_congruency, _PHASE_CONSTANT)
    similarity *= _similar(one.gradient, other.gradient, _GRADIENT_CONSTANT)
    if chromatic:
        both = jnp.prod(_similar(one.chroma, other.chroma, _CHROMA_CONSTANT), axis=0)
        similarity *= positive_power(jnp.abs(both), _CHROMA_EXPONENT)
    return jnp.sum(similarity * weight) / jnp.sum(weight)


class Features(NamedTuple):
    """The compared features of an image, after down-sampling."""

    luminance: Float[Array, "height width"]
    chroma: Float[Array, "2 height width"]
    phase_congruency: Float[Array, "height width"]
    gradient: Float[Array, "height width"]


def features(image: RGBImage) -> Features:
    """Returns the features of an image in [0, 1]; all but phase congruency are scaled to 255."""
    small = 255 * _downsampled(jnp.asarray(image))
    brightness = luminance(small)
    return Features(brightness, chroma(small), phase_congruency(brightness), gradient(brightness))


def _downsampled(image):
    """Returns means over f x f pixels; drops the remainder at the right and the bottom."""
    height, width, channels = image.shape
    factor = max(1, round(min(height, width) / 256))
    height, width = height // factor, width // factor
    kept = image[: height * factor, : width * factor]
    return kept.reshape(height, factor, width, factor, channels).mean(axis=(1, 3))


def phase_congruency(brightness: Float[Array, "height width"]) -> Float[Array, "height width"]:
    """Returns how well the phases of all scales agree at each pixel, from 0 to about 1."""
    filters = log_gabor_filters(*brightness.shape)
    responses = jnp.fft.ifft2(jnp.fft.fft2(brightness) * filters.astype(brightness.dtype))
    even, odd = responses.real, responses.imag  # orientation, scale, height, width
    sum_even, sum_odd = even.sum(axis=1, keepdims=True), odd.sum(axis=1, keepdims=True)
    length = _root(sum_even**2 + sum_odd**2) + _EPSILON
    mean_even, mean_odd = sum_even / length, sum_odd / length
    agreement = even * mean_even + odd * mean_odd - jnp.abs(even * mean_odd - odd * mean_even)
    energy = jax.nn.relu(agreement.sum(axis=1) - _noise(even, odd, filters)[:, None, None])
    amplitudes = _root(even**2 + odd**2)
    return (energy.sum(axis=0) + _EPSILON) / (amplitudes.sum(axis=(0, 1)) + _EPSILON)


def _noise(even, odd, filters):
    """Returns the noise threshold of each orientation, estimated at the smallest scale."""
    squares = jnp.sort((even[:, 0] ** 2 + odd[:, 0] ** 2).reshape(len(even), -1))
    medians = squares[:, (squares.shape[1] - 1) // 2]  # the lower median
    kernels = np.fft.ifft2(filters).real * np.sqrt(np.prod(filters.shape[2:]))
    powers = (kernels.sum(axis=1) ** 2).sum(axis=(1, 2))
    powers /= (filters[:, 0] ** 2).sum(axis=(1, 2)) + np.finfo(float).tiny  # 0 for a single pixel
    deviation = _root(medians * jnp.asarray(powers / np.log(2), medians.dtype))
    # The mean of the Rayleigh distribution plus two standard deviations.
    return deviation * (math.sqrt(math.pi / 2) + 2 * math.sqrt(2 - math.pi / 2)) / 1.7


def log_gabor_filters(height: int, width: int) -> Float[np.ndarray, "4 4 height width"]:
    """Returns the transfer functions by orientation and scale; the zero frequency comes first."""
    u, v = np.meshgrid(_frequencies(width), _frequencies(height))
    radius, angle = np.hypot(u, v), np.arctan2(-v, u)
    low_pass = np.fft.ifftshift(1 / (1 + (radius / 0.45) ** 30))
    radius, angle = np.fft.ifftshift(radius), np.fft.ifftshift(angle)
    radius[0, 0] = 1
    wavelengths = 6 * 2.0 ** np.arange(_SCALES)
    radial = np.exp(-(np.log(radius * wavelengths[:, None, None]) ** 2) / (2 * np.log(0.55) ** 2))
    radial *= low_pass
    radial[:, 0, 0] = 0
    directions = (np.arange(_ORIENTATIONS) * np.pi / _ORIENTATIONS)[:, None, None]
    apart = np.abs(np.angle(np.exp(1j * (angle - directions))))
    spread = np.pi / _ORIENTATIONS / 1.2
    return np.exp(-(apart**2) / (2 * spread**2))[:, None] * radial


def _frequencies(count):
    """Returns ascending cycles per pixel of an axis; an odd count spans -0.5 to 0.5 inclusive."""
    odd = count % 2
    return (np.arange(count) - (count - odd) / 2) / max(count - odd, 1)


def gradient(brightness: Float[Array, "height width"]) -> Float[Array, "height width"]:
    """Returns the magnitude of Scharr's gradient, with zero padding."""
    kernels = jnp.array([_SCHARR, _SCHARR.T], brightness.dtype)[:, None]
    both = jax.lax.conv(brightness[None, None], kernels, (1, 1), "SAME", "highest")
    return jnp.sqrt((both[0] ** 2).sum(axis=0) + _EPSILON)


def _similar(one, other, constant):
    return (2 * one * other + constant) / (one**2 + other**2 + constant + _EPSILON)


def _root(square):
    """Returns the square root, with a gradient of 0 at 0."""
    return positive_power(square, 0.5)
