"""Structural similarity: Wang, Bovik, Sheikh, Simoncelli, IEEE TIP 13, 2004."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vitdeblur_jax.errors import UserError
from vitdeblur_jax.metrics.pixelwise import Image

_WINDOW = 7
_C1, _C2 = 0.01**2, 0.03**2


def structural_similarity(
    image: Image,
    reference: Image,
) -> Float[Array, ""]:
    """Returns SSIM as scikit-image computes it by default, for a data range of 1.

    A 7 x 7 uniform window, sample variances (49 / 48), only windows that lie wholly inside, the
    mean over pixels and channels.

    Raises:
      UserError: a side is shorter than 7 pixels.
    """
    if min(image.shape[:2]) < _WINDOW:
        height, width = image.shape[:2]
        raise UserError(f"SSIM needs at least 7 x 7 pixels; the image is {width} x {height}")
    # Shifting both alike changes no variance, but keeps digits that E[x^2] - E[x]^2 loses.
    centre = reference.mean(axis=(0, 1))
    x, y = image - centre, reference - centre
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    sample = _WINDOW**2 / (_WINDOW**2 - 1)
    variance_x = sample * (_window_mean(x * x) - mean_x**2)
    variance_y = sample * (_window_mean(y * y) - mean_y**2)
    covariance = sample * (_window_mean(x * y) - mean_x * mean_y)
    mean_x, mean_y = mean_x + centre, mean_y + centre
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_x + variance_y + _C2)
    return jnp.mean(luminance * structure)


def _window_mean(image):
    zero = np.zeros((), image.dtype)  # not of JAX, whose trace under jit would hide that this sums
    for sides in ((_WINDOW, 1, 1), (1, _WINDOW, 1)):
        image = jax.lax.reduce_window(image, zero, jax.lax.add, sides, (1, 1, 1), "VALID")
    return image / _WINDOW**2
