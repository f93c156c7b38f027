import math

import jax
import numpy as np
import pytest

from vitdeblur_jax.models.vitdeblur.position_embedding import (
    resize_position_embedding,
    sincos_position_embedding,
)


def test_rows_and_sums_match_the_reference(golden):
    table = resize_position_embedding(jax.device_put(sincos_position_embedding(14, 768)), 35, 35)
    rows = np.array([0, 1, 2, 36, 37, 612, 1189, 1225])
    np.testing.assert_allclose(table[rows], golden["pos_embed_35_rows"], rtol=0, atol=1e-5)
    total = np.asarray(table, np.float64).sum()
    np.testing.assert_allclose(total, golden["pos_embed_35_sum"], rtol=1e-6)

    again = resize_position_embedding(table, 31, 31)
    rows = np.array([0, 1, 2, 32, 33, 480, 930, 961])
    np.testing.assert_allclose(again[rows], golden["pos_embed_31_rows"], rtol=0, atol=1e-5)
    total = np.asarray(again, np.float64).sum()
    np.testing.assert_allclose(total, golden["pos_embed_31_sum"], rtol=1e-6)


def test_the_first_half_encodes_the_column_and_the_class_token_is_zero():
    grid, width = 5, 16
    table = sincos_position_embedding(grid, width)
    assert not table[0].any()
    row, column, i = 3, 1, 2
    token = table[1 + row * grid + column]
    frequency = 10000 ** (-i / (width / 4))
    np.testing.assert_allclose(token[i], math.sin(column * frequency), atol=1e-6)
    np.testing.assert_allclose(token[width // 4 + i], math.cos(column * frequency), atol=1e-6)
    np.testing.assert_allclose(token[width // 2 + i], math.sin(row * frequency), atol=1e-6)


@pytest.mark.parametrize(("rows", "columns"), [(3, 9), (11, 4), (5, 6)])
def test_resizing_matches_a_pixel_by_pixel_rendering(rows, columns):
    old = 5
    table = np.random.default_rng(0).standard_normal((1 + old * old, 4)).astype(np.float32)
    resized = resize_position_embedding(jax.device_put(table), rows, columns)
    np.testing.assert_array_equal(resized[0], table[0])
    grid = table[1:].reshape(old, old, 4)
    for row in range(rows):
        for column in range(columns):
            expected = _sample(grid, _source(row, old, rows), _source(column, old, columns))
            np.testing.assert_allclose(resized[1 + row * columns + column], expected, atol=2e-6)


def _source(target, old, new):
    return (target + 0.5) * old / (new + 0.1) - 0.5


def _sample(grid, y, x):
    total = 0.0
    for j in range(math.floor(y) - 1, math.floor(y) + 3):
        for i in range(math.floor(x) - 1, math.floor(x) + 3):
            pixel = grid[min(max(j, 0), len(grid) - 1), min(max(i, 0), len(grid) - 1)]
            total = total + _cubic(y - j) * _cubic(x - i) * pixel.astype(np.float64)
    return total


def _cubic(distance, a=-0.75):
    d = abs(distance)
    if d < 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def test_the_same_size_is_kept_to_the_bit():
    table = jax.device_put(sincos_position_embedding(7, 8))
    assert resize_position_embedding(table, 7, 7) is table
