import jax
import numpy as np
import pytest

from vitdeblur_jax.models.layers.leaky import LeakyConv, LeakyUpsample


def leaky(x, slope=0.1):
    return np.where(x > 0, x, slope * x)


def random_variables(module, x):
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda one: jax.device_put(rng.standard_normal(one.shape)), shapes)


@pytest.fixture(scope="module")
def image():
    return jax.device_put(np.random.default_rng(0).standard_normal((1, 6, 4, 2)))


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (1, 1)])
def test_convolution_is_centred_on_every_stride_th_pixel(image, size, stride):
    module = LeakyConv(3, size, stride)
    variables = random_variables(module, image)
    kernel, bias = (np.asarray(variables["params"]["conv"][x]) for x in ("kernel", "bias"))
    padded = np.pad(image[0], ((size // 2,) * 2, (size // 2,) * 2, (0, 0)))
    expected = np.zeros((6 // stride, 4 // stride, 3))
    for y, x in np.ndindex(expected.shape[:2]):
        patch = padded[stride * y : stride * y + size, stride * x : stride * x + size]
        expected[y, x] = np.einsum("ijc,ijcf->f", patch, kernel) + bias
    np.testing.assert_allclose(module.apply(variables, image)[0], leaky(expected), atol=1e-5)


@pytest.mark.parametrize("slope", [0.1, 0.2])
def test_upsampling_scatters_with_four_taps(image, slope):
    module = LeakyUpsample(3, slope=slope)
    variables = random_variables(module, image)
    kernel, bias = (np.asarray(variables["params"]["conv"][x]) for x in ("kernel", "bias"))
    expected = np.zeros((12, 8, 3)) + bias
    for y, x, a, b in np.ndindex(6, 4, 4, 4):
        row, column = 2 * y + a - 1, 2 * x + b - 1
        if 0 <= row < 12 and 0 <= column < 8:
            expected[row, column] += kernel[a, b] @ np.asarray(image)[0, y, x]
    np.testing.assert_allclose(module.apply(variables, image)[0], leaky(expected, slope), atol=1e-5)
