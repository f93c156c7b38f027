"""Resizing against Pillow, and against sums over single pixels."""

import numpy as np
import pytest
from PIL import Image

from vitdeblur_jax.metrics.resizing import (
    antialiased_matrix,
    bicubic_matrix,
    nearest_indices,
    resize_antialiased,
    resize_bicubic,
    resize_nearest,
)


@pytest.mark.parametrize("size", [(20, 31), (77, 40), (50, 64)])
def test_antialiased_is_pillow(size):
    image = np.random.default_rng(0).random((50, 64, 3)).astype(np.float32)
    found = np.asarray(resize_antialiased(image, *size))
    for channel in range(3):
        plane = Image.fromarray(image[..., channel])
        expected = np.asarray(plane.resize(size[::-1], Image.Resampling.BICUBIC))
        np.testing.assert_allclose(found[..., channel], expected, atol=1e-5)


@pytest.mark.parametrize("sizes", [(9, 4), (9, 14), (5, 5), (1, 3)])
def test_bicubic_is_a_sum_over_four_neighbours(sizes):
    size, new_size = sizes
    line = np.random.default_rng(0).random(size)

    def weight(x):
        x = abs(x)
        if x < 1:
            return 1.25 * x**3 - 2.25 * x**2 + 1
        return -0.75 * x**3 + 3.75 * x**2 - 6 * x + 3 if x < 2 else 0

    expected = []
    for i in range(new_size):
        centre = (i + 0.5) * size / new_size - 0.5
        taps = range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3)
        expected.append(sum(weight(t - centre) * line[min(max(t, 0), size - 1)] for t in taps))
    np.testing.assert_allclose(bicubic_matrix(size, new_size) @ line, expected, atol=1e-6)
    image = np.broadcast_to(line[:, None, None], (size, 6, 3)).astype(np.float32)
    found = np.asarray(resize_bicubic(image, new_size, 6))
    np.testing.assert_allclose(found[:, 2, 1], expected, atol=1e-6)


def test_nearest_follows_float32():
    """At these sizes and no others float32 takes another pixel than whole numbers do."""
    exact = {size: np.arange(329) * size // 329 for size in range(100, 1000)}
    other = [size for size in exact if (nearest_indices(size, 329) != exact[size]).any()]
    assert other == [112, 224, 245, 448, 483, 490, 705, 893, 896, 966, 980]
    image = np.random.default_rng(0).random((5, 4, 3)).astype(np.float32)
    found = np.asarray(resize_nearest(image, 10, 2))
    np.testing.assert_array_equal(found, image.repeat(2, axis=0)[:, ::2])


@pytest.mark.parametrize("matrix", [bicubic_matrix, antialiased_matrix])
def test_a_flat_image_stays_flat(matrix):
    for size, new_size in ((1, 1), (1, 7), (30, 4), (4, 30)):
        np.testing.assert_allclose(matrix(size, new_size).sum(axis=1), 1)


@pytest.mark.parametrize("matrix", [bicubic_matrix, antialiased_matrix])
def test_pixels_lie_where_float32_says(matrix):
    """Both of PyTorch 2.13's bicubics gave these, where float64 is off by 1e-4."""
    found = matrix(1680, 1842) @ (np.arange(1680) % 2)
    np.testing.assert_allclose(found[[1665, 1778]], [0.5340342, 0.3743187], atol=1e-5)


def test_only_what_is_kept_is_computed():
    image = np.random.default_rng(0).random((30, 41, 3)).astype(np.float32)
    rows, columns = slice(3, 9), slice(5, 21)
    for resize in (resize_antialiased, resize_nearest):
        whole = resize(image, 20, 50)
        found = resize(image, 20, 50, rows, columns)
        np.testing.assert_allclose(found, whole[rows, columns], atol=1e-6)
