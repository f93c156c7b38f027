import jax
import numpy as np
import pytest
from scipy.fft import next_fast_len
from scipy.signal import correlate

from vitdeblur_jax.models.layers import convolution
from vitdeblur_jax.models.layers.cpu_convolution import (
    convolution_by_fourier_transform,
    fast_length,
)


@pytest.fixture
def image_and_kernel():
    rng = np.random.default_rng(0)
    image = jax.device_put(rng.standard_normal((2, 23, 30, 3)))
    return image, jax.device_put(rng.standard_normal((7, 5, 3, 4)))


def test_convolution_matches_scipy(image_and_kernel):
    image, kernel = (np.asarray(x, np.float64) for x in image_and_kernel)
    expected = np.stack(
        [
            np.stack([correlate(one, kernel[..., o], "valid")[..., 0] for o in range(4)], -1)
            for one in image
        ]
    )
    np.testing.assert_allclose(
        convolution.valid_convolution(*image_and_kernel), expected, atol=2e-5
    )


def test_fast_lengths_match_scipy():
    lengths = range(1, 2000)
    assert [fast_length(n) for n in lengths] == [next_fast_len(n, real=True) for n in lengths]


def test_a_cpu_has_the_same_gradient(image_and_kernel):
    def gradient(convolve):
        return jax.grad(lambda x: (convolve(*x) ** 2).sum())(image_and_kernel)

    fourier = gradient(convolution_by_fourier_transform)
    direct = gradient(lambda *x: convolution.direct_convolution(*x, precision="highest"))
    for one, other in zip(fourier, direct, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)


def test_initial_values_fill_the_interval_of_pytorch():
    values = convolution.fan_in_uniform(64)(jax.random.key(0), (10_000,))
    assert -0.125 <= values.min() < -0.124
    assert 0.124 < values.max() <= 0.125


def test_initial_kernels_fill_the_interval_of_pytorch():
    kernel = convolution.PYTORCH_KERNEL_INIT(jax.random.key(0), (4, 4, 4, 1000))
    np.testing.assert_allclose([kernel.min(), kernel.max()], [-0.125, 0.125], rtol=1e-3)
