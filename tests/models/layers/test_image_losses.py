import jax
import numpy as np
import pytest
from skimage.metrics import structural_similarity

from vitdeblur_jax.models.layers import image_losses


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    target = rng.random((2, 16, 20, 3))
    return target + 0.2 * rng.standard_normal(target.shape), target


def test_mean_and_fourier_differences(pair):
    output, target = pair
    ours = jax.device_put(pair)
    np.testing.assert_allclose(
        image_losses.l1(*ours), abs(output - target).mean((1, 2, 3)), rtol=1e-5
    )
    squares = ((output - target) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(image_losses.mse(*ours), squares, rtol=1e-5)
    one, other = (np.fft.fft2(x, axes=(1, 2)) for x in pair)
    expected = abs(one.real - other.real).mean((1, 2, 3))
    expected += abs(one.imag - other.imag).mean((1, 2, 3))
    np.testing.assert_allclose(image_losses.fourier_l1(*ours), expected, rtol=1e-5)


def test_dissimilarity(pair):
    ours = jax.jit(image_losses.dissimilarity)(*jax.device_put(pair))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    for found, output, target in zip(ours, *pair, strict=True):
        similarity, values = structural_similarity(
            output, target, channel_axis=2, data_range=1, full=True, **options
        )
        similarity = values[5:-5, 5:-5].mean()
        np.testing.assert_allclose(found, 1 - similarity, rtol=1e-4)
