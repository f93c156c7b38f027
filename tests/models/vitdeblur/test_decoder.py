import jax
import numpy as np
import pytest

from vitdeblur_jax.models.vitdeblur.decoder import Fusion, tokens_to_map


def test_fusion_is_a_layer_norm_and_a_linear_layer_on_the_whole_concatenation():
    rng = np.random.default_rng(0)
    primary, x = rng.normal(3, 2, (2, 5, 6)), rng.normal(-1, 1, (2, 5, 4))
    params = {
        "scale": rng.standard_normal(16),
        "shift": rng.standard_normal(16),
        "kernel": rng.standard_normal((16, 7)),
        "bias": rng.standard_normal(7),
    }
    joined = np.concatenate([primary, primary, x], axis=-1)
    centred = joined - joined.mean(-1, keepdims=True)
    normalized = centred / np.sqrt(joined.var(-1, keepdims=True) + 1e-5)
    expected = (normalized * params["scale"] + params["shift"]) @ params["kernel"] + params["bias"]

    params = jax.device_put(params)
    inputs = jax.device_put([primary, x])
    fused = Fusion(7, precision="highest").apply({"params": params}, *inputs)
    np.testing.assert_allclose(fused, expected, atol=2e-5)


def test_tokens_become_pixels_in_the_order_row_column_channel():
    grid, side, channels = 3, 2, 5
    tokens = np.arange(grid * grid * side * side * channels, dtype=np.float32)
    tokens = tokens.reshape(1, grid * grid, side * side * channels)
    pixels = tokens_to_map(jax.device_put(tokens), side)
    assert pixels.shape == (1, 6, 6, 5)
    for y in range(6):
        for x in range(6):
            token = tokens[0, (y // side) * grid + x // side].reshape(side, side, channels)
            np.testing.assert_array_equal(pixels[0, y, x], token[y % side, x % side])


@pytest.mark.parametrize(
    ("stride", "overlap", "grid"),
    [(4, 1, 3), (4, 2, 2), (4, 4, 4), (5, 3, 3), (3, 3, 1), (1, 1, 5)],
)
def test_overlapping_squares_are_added_and_cut_off_at_the_border(stride, overlap, grid):
    side, length = stride + 2 * overlap, grid * stride
    squares = np.random.default_rng(0).standard_normal((2, grid**2, side, side, 3))
    expected = np.zeros((2, length, length, 3))
    for number in range(grid**2):
        top, left = (stride * place - overlap for place in divmod(number, grid))
        for y in range(max(top, 0), min(top + side, length)):
            for x in range(max(left, 0), min(left + side, length)):
                expected[:, y, x] += squares[:, number, y - top, x - left]
    tokens = jax.device_put(squares.astype(np.float32).reshape(2, grid**2, -1))
    np.testing.assert_allclose(tokens_to_map(tokens, stride, overlap), expected, atol=3e-6)
