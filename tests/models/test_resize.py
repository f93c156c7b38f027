import jax.numpy as jnp
import numpy as np
import pytest

from vitdeblur_jax.models.layers.resize import enlarge, reduce


@pytest.fixture
def image():
    return np.random.default_rng(0).random((2, 8, 12, 3), np.float32)


def interpolated(x, positions, axis):
    """Returns linear interpolation at positions, which are limited to the first and last pixel."""
    positions = np.clip(positions, 0, x.shape[axis] - 1)
    below = np.floor(positions).astype(int)
    above = np.minimum(below + 1, x.shape[axis] - 1)
    shape = [1] * x.ndim
    shape[axis] = -1
    part = (positions - below).reshape(shape)
    return x.take(below, axis) * (1 - part) + x.take(above, axis) * part


@pytest.mark.parametrize("factor", [2, 4])
def test_enlarged_by_interpolation_between_pixel_centers(image, factor):
    expected = image
    for axis in (1, 2):
        positions = (np.arange(factor * image.shape[axis]) + 0.5) / factor - 0.5
        expected = interpolated(expected, positions, axis)
    np.testing.assert_allclose(enlarge(jnp.asarray(image), factor), expected, atol=1e-6)


@pytest.mark.parametrize("factor", [2, 4])
def test_reduced_by_interpolation_between_pixel_centers(image, factor):
    expected = image
    for axis in (1, 2):
        positions = (np.arange(image.shape[axis] // factor) + 0.5) * factor - 0.5
        expected = interpolated(expected, positions, axis)
    np.testing.assert_allclose(reduce(jnp.asarray(image), factor), expected, atol=1e-6)
