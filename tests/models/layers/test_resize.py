import jax
import numpy as np
import pytest
from PIL import Image

from vitdeblur_jax.models.layers.resize import (
    double_from_corner,
    enlarge,
    nearest_upsample,
    pillow_pyramid,
    reduce,
)


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
    np.testing.assert_allclose(enlarge(jax.device_put(image), factor), expected, atol=1e-6)


@pytest.mark.parametrize("factor", [2, 4])
def test_reduced_by_interpolation_between_pixel_centers(image, factor):
    expected = image
    for axis in (1, 2):
        positions = (np.arange(image.shape[axis] // factor) + 0.5) * factor - 0.5
        expected = interpolated(expected, positions, axis)
    np.testing.assert_allclose(reduce(jax.device_put(image), factor), expected, atol=1e-6)


def test_pyramid_is_that_of_pillow():
    levels = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)
    half = Image.fromarray(levels).resize((40, 24), Image.Resampling.BILINEAR)
    quarter = half.resize((20, 12), Image.Resampling.BILINEAR)
    found = jax.jit(pillow_pyramid)(levels[None] / np.float32(255))
    for ours, theirs in zip(found, (quarter, half, levels), strict=True):
        np.testing.assert_allclose(255 * ours[0], np.asarray(theirs), atol=1e-4)


def test_the_gradient_of_the_pyramid_passes_the_rounding():
    image = jax.device_put(np.random.default_rng(0).random((1, 4, 4, 1)))
    gradient = jax.jit(jax.grad(lambda x: pillow_pyramid(x)[0].sum()))(image)
    np.testing.assert_allclose(gradient.sum(), 1, rtol=1e-5)  # the weights of the one pixel left
    assert gradient.min() > 0.04


def test_doubled_from_the_corner_as_tensorflow_1_does(image):
    expected = image
    for axis in (1, 2):
        expected = interpolated(expected, np.arange(2 * image.shape[axis]) / 2, axis)
    np.testing.assert_allclose(double_from_corner(jax.device_put(image)), expected, atol=1e-6)


def test_nearest_neighbors_repeat_each_pixel(image):
    found = nearest_upsample(jax.device_put(image))
    np.testing.assert_array_equal(found, np.kron(image, np.ones((1, 2, 2, 1))))
