import jax
import numpy as np
from scipy.ndimage import correlate
from scipy.special import softmax

from vitdeblur_jax.models.layers.blur_stacks import gaussian_blurs, recursive_blurs


def test_recursive_blurs_filter_what_the_one_before_left():
    rng = np.random.default_rng(0)
    image, taps = rng.random((2, 7, 9, 3)), rng.standard_normal((4, 3, 2))
    blurs = jax.jit(recursive_blurs)(jax.device_put(image), jax.device_put(taps))
    assert blurs.shape == (2, 7, 9, 5, 3)
    for n, channel in np.ndindex(2, 3):
        blurred = image[n, ..., channel]
        np.testing.assert_allclose(blurs[n, :, :, 0, channel], blurred, atol=1e-6)
        for k in range(4):
            p, q = taps[k, channel]
            line = softmax([p, q, p])
            blurred = correlate(blurred, np.outer(line, line), mode="mirror")
            np.testing.assert_allclose(blurs[n, :, :, k + 1, channel], blurred, atol=1e-6)


def gaussian_kernel(m):
    """Returns kernel m as the published network's facts have it, 21 x 21."""
    kernel = np.zeros((21, 21))
    if m == 0:
        kernel[10, 10] = 1
        return kernel
    radius = {1: 1, 2: 1, 3: 1}.get(m, m // 2)
    offsets = np.arange(-radius, radius + 1)
    line = np.exp(-(offsets**2) / (2 * (0.25 * m) ** 2))
    window = slice(10 - radius, 11 + radius)
    kernel[window, window] = np.outer(line, line) / line.sum() ** 2
    return kernel


def test_gaussian_blurs_are_scrambled():
    image = np.random.default_rng(0).random((1, 13, 25, 3), np.float32)
    blurs = jax.jit(gaussian_blurs, static_argnums=1)(image, 22).reshape(13, 25, 66)
    for n in range(66):
        expected = correlate(image[0, :, :, n // 22], gaussian_kernel(n // 3), mode="constant")
        np.testing.assert_allclose(blurs[:, :, n], expected, atol=1e-6)
