import jax
import jax.numpy as jnp
import numpy as np
from scipy.ndimage import map_coordinates

from vitdeblur_jax.models.layers.warping import shifted_columns


def test_columns_are_sampled_as_by_scipy():
    rng = np.random.default_rng(0)
    image = rng.random((2, 5, 9, 3)).astype(np.float32)
    disparity = rng.uniform(-7, 7, (2, 5, 9, 1)).astype(np.float32)
    found = shifted_columns(jax.device_put(image), jax.device_put(disparity))
    rows, columns = np.mgrid[:5, :9]
    for n in range(2):
        for channel in range(3):
            places = [rows, columns + disparity[n, ..., 0]]
            settings = {"order": 1, "mode": "grid-constant"}
            expected = map_coordinates(image[n, ..., channel], places, **settings)
            np.testing.assert_allclose(found[n, ..., channel], expected, atol=1e-5)


def test_the_gradient_of_the_disparity_is_the_slope():
    ramp = jnp.broadcast_to(3 * jnp.arange(8.0)[:, None], (1, 2, 8, 1))
    disparity = jnp.full((1, 2, 8, 1), 0.25)
    gradient = jax.grad(lambda d: shifted_columns(ramp, d)[:, :, :6].sum())(disparity)
    np.testing.assert_allclose(gradient[:, :, :6], 3, rtol=1e-6)
