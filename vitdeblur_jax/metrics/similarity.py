"""Structural similarity: Wang, Bovik, Sheikh, Simoncelli, IEEE TIP 13, 2004.

Three definitions are in use, and their results differ in the second digit: a uniform window on RGB,
a Gaussian window on RGB, and a Gaussian window on luminance.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vitdeblur_jax.metrics.luminance import luminance
from vitdeblur_jax.metrics.numerics import Image, RGBImage, check_pair
from vitdeblur_jax.utils.errors import UserError

_UNIFORM = np.full(7, 1 / 7)
_SAMPLE = 49 / 48  # turns the population variance of a 7 x 7 window into a sample variance
_GAUSSIAN = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
_GAUSSIAN /= _GAUSSIAN.sum()


def structural_similarity(
    image: Image,
    reference: Image,
) -> Float[Array, ""]:
    """Returns SSIM with scikit-image's defaults, for a data range of 1.

    It has a 7 x 7 uniform window and sample variances (49 / 48), and is the mean over channels and
    over all windows that lie inside the image.

    Raises:
      UserError: A side is shorter than 7 pixels.
    """
    brightness, contrast = _factors(image, reference, _UNIFORM, _SAMPLE)
    return jnp.mean(brightness * contrast)


def structural_similarity_gaussian(
    image: Image,
    reference: Image,
    clamp: bool = False,
) -> Float[Array, ""]:
    """Returns SSIM with an 11 x 11 Gaussian window of sigma 1.5, for a data range of 1.

    It has population variances, and is the mean over channels and over all windows that lie inside
    the image: scikit-image's SSIM with `gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False`. `clamp` replaces a negative factor of contrast and structure by 0,
    as in pyiqa's `ssimc`.

    Raises:
      UserError: A side is shorter than 11 pixels.
    """
    brightness, contrast = _factors(image, reference, _GAUSSIAN)
    return jnp.mean(brightness * (jnp.maximum(contrast, 0) if clamp else contrast))


def structural_similarity_luminance(
    image: RGBImage,
    reference: RGBImage,
) -> Float[Array, ""]:
    """Returns SSIM of the luminance rounded to 8 bits, as pyiqa's `ssim`.

    It is `structural_similarity_gaussian` with `clamp`, of YIQ's luminance times 255, rounded. The
    gradient ignores the rounding.

    Raises:
      UserError: A side is shorter than 11 pixels.
    """
    check_pair(image, reference, rgb=True)
    steps = (_rounded(255 * luminance(picture))[..., None] for picture in (image, reference))
    return structural_similarity_gaussian(*(value / 255 for value in steps), clamp=True)


def _rounded(values):
    return values + jax.lax.stop_gradient(jnp.round(values) - values)


def _factors(image, reference, window, variance_factor=1.0):
    """Returns the two factors of SSIM as maps: luminance, and contrast times structure."""
    check_pair(image, reference)
    _check_size(image, len(window))
    # The same shift of both changes no variance and avoids cancellation in E[x^2] - E[x]^2.
    centre = reference.mean(axis=(0, 1))
    x, y = image - centre, reference - centre
    mean_x, mean_y = _filtered(x, window), _filtered(y, window)
    # Only the sum of the two variances is needed.
    variances = variance_factor * (_filtered(x * x + y * y, window) - mean_x**2 - mean_y**2)
    covariance = variance_factor * (_filtered(x * y, window) - mean_x * mean_y)
    mean_x, mean_y = mean_x + centre, mean_y + centre
    c1, c2 = 0.01**2, 0.03**2
    brightness = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return brightness, (2 * covariance + c2) / (variances + c2)


def _check_size(image, side):
    if min(image.shape[:2]) < side:
        height, width = image.shape[:2]
        raise UserError(
            f"SSIM needs at least {side} x {side} pixels; the image is {width} x {height}"
        )


def _filtered(image, window):
    """Returns the weighted sums over all windows that lie inside the image."""
    kernel = jnp.asarray(window, image.dtype)
    planes = jnp.moveaxis(image, -1, 0)[:, None]  # XLA is fast at convolutions of one channel
    for kernel_of_axis in (kernel[:, None], kernel[None, :]):
        planes = jax.lax.conv(planes, kernel_of_axis[None, None], (1, 1), "VALID", "highest")
    return jnp.moveaxis(planes[:, 0], 0, -1)
