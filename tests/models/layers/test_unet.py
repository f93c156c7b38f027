import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate

from vitdeblur_jax.models.layers.unet import ReluConv, max_pool


@pytest.mark.parametrize(("size", "padding"), [(1, (0, 0)), (2, (0, 1)), (3, (1, 1))])
def test_an_even_kernel_is_padded_at_the_bottom_and_on_the_right(size, padding):
    rng = np.random.default_rng(0)
    image, kernel = rng.standard_normal((6, 4, 3)), rng.standard_normal((size, size, 3, 2))
    module, x = ReluConv(2, size), jax.device_put(image[None])
    params = {"conv": {"kernel": jax.device_put(kernel), "bias": jnp.array([0.5, -0.5])}}
    padded = np.pad(image, (padding, padding, (0, 0)))
    for i, bias in enumerate((0.5, -0.5)):
        expected = np.maximum(correlate(padded, kernel[..., i], "valid")[..., 0] + bias, 0)
        ours = module.apply({"params": params}, x)[0, ..., i]
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_pooling():
    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 3))
    np.testing.assert_array_equal(max_pool(x), x.reshape(2, 2, 2, 3, 2, 3).max((2, 4)))
