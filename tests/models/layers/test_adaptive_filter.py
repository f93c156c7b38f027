import jax
import numpy as np
import pytest
from scipy.ndimage import correlate

from vitdeblur_jax.models.layers.adaptive_filter import adaptive_filter


@pytest.mark.parametrize(("rows", "columns", "channels"), [(7, 7, 1), (3, 1, 4), (1, 3, 4)])
def test_each_pixel_has_its_own_kernel(rows, columns, channels):
    rng = np.random.default_rng(0)
    image = rng.standard_normal((2, 9, 8, 4))
    filters = rng.standard_normal((2, 9, 8, rows, columns, channels))
    filtered = adaptive_filter(jax.device_put(image), jax.device_put(filters))
    for n, y, x, c in np.ndindex(image.shape):
        if (n + y + x + c) % 5 == 0:  # every border, every corner, and enough of the middle
            kernel = filters[n, y, x, :, :, c % channels]
            whole = correlate(image[n, :, :, c], kernel, mode="nearest")
            np.testing.assert_allclose(filtered[n, y, x, c], whole[y, x], atol=1e-5)
