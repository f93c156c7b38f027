"""Crops and flips are checked on images whose pixels say where they come from."""

from collections import Counter

import jax
import numpy as np
import pytest

from vitdeblur_jax.data.transforms import random_crop_and_flips, unit_range
from vitdeblur_jax.utils.errors import UserError


def coordinates(height: int, width: int, views: int = 1, dtype=np.uint8) -> dict:
    """An example whose pixels hold their row, their column and, in the blurred one, their view."""
    rows, columns = np.indices((height, width))
    blurred = [plane for view in range(views) for plane in (rows, columns, 0 * rows + view)]
    return {
        "name": "coordinates",
        "blurred": np.stack(blurred, axis=-1).astype(dtype),
        "sharp": np.stack([rows, columns, 0 * rows], axis=-1).astype(dtype),
        "radius": (1000 * rows + columns).astype(np.float32),
    }


def changed(seed: int, crop: int = 5, example: dict | None = None, **options) -> dict:
    example = example or coordinates(9, 12)
    return random_crop_and_flips(example, np.random.default_rng(seed), crop, **options)


def symmetry(example: dict) -> tuple[int, ...]:
    """How rows and columns run along the first and the second axis."""
    rows, columns = np.moveaxis(example["sharp"][..., :2].astype(int), -1, 0)
    first, second = (1, 0), (0, 1)
    return tuple(plane[at] - plane[0, 0] for plane in (rows, columns) for at in (first, second))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("everything", [False, True])
def test_all_images_of_an_example_are_cut_and_turned_alike(dtype, everything):
    options = {"vertical_flip": everything, "quarter_turns": everything}
    for seed in range(30):
        result = changed(seed, example=coordinates(9, 12, dtype=dtype), **options)
        rows, columns = np.moveaxis(result["sharp"][..., :2].astype(int), -1, 0)
        assert result["name"] == "coordinates"
        assert result["sharp"].dtype == result["blurred"].dtype == dtype
        assert result["radius"].dtype == np.float32
        np.testing.assert_array_equal(result["blurred"], result["sharp"])
        np.testing.assert_array_equal(result["radius"], 1000 * rows + columns)
        top, left = rows.min(), columns.min()
        square = {(top + i, left + j) for i in range(5) for j in range(5)}
        assert set(zip(rows.flat, columns.flat, strict=True)) == square


def test_published_augmentation_crops_everywhere_and_mirrors_half_of_the_time():
    example = coordinates(4, 5)
    results = [changed(seed, 3, example) for seed in range(600)]
    corners = Counter((r["sharp"][..., 0].min(), r["sharp"][..., 1].min()) for r in results)
    assert set(corners) == {(top, left) for top in range(2) for left in range(3)}
    assert min(corners.values()) > 60
    symmetries = Counter(map(symmetry, results))
    assert set(symmetries) == {(1, 0, 0, 1), (1, 0, 0, -1)}
    assert min(symmetries.values()) > 250


def test_options_reach_the_eight_symmetries_of_the_square_equally_often():
    options = {"vertical_flip": True, "quarter_turns": True}
    counts = Counter(symmetry(changed(seed, **options)) for seed in range(800))
    assert len(counts) == 8
    assert min(counts.values()) > 65
    assert max(counts.values()) < 140


def test_vertical_flip_alone_keeps_rows_rows():
    counts = Counter(symmetry(changed(seed, vertical_flip=True)) for seed in range(100))
    assert set(counts) == {(i, 0, 0, j) for i in (1, -1) for j in (1, -1)}


def test_the_horizontal_flip_can_be_left_out():
    counts = Counter(symmetry(changed(seed, horizontal_flip=False)) for seed in range(30))
    assert set(counts) == {(1, 0, 0, 1)}


def test_options_do_not_move_the_crop():
    for seed in range(20):
        plain = changed(seed)
        turned = changed(seed, vertical_flip=True, quarter_turns=True)
        assert set(plain["radius"].flat) == set(turned["radius"].flat)


def test_a_mirrored_scene_swaps_the_two_views():
    mirrored = 0
    for seed in range(20):
        result = changed(seed, example=coordinates(9, 12, views=2))
        is_mirrored = symmetry(result) == (1, 0, 0, -1)
        mirrored += is_mirrored
        assert (result["blurred"][..., 2] == is_mirrored).all()
        assert (result["blurred"][..., 5] == 1 - is_mirrored).all()
        for first in (0, 3):
            rows_and_columns = result["blurred"][..., first : first + 2]
            np.testing.assert_array_equal(rows_and_columns, result["sharp"][..., :2])
    assert 0 < mirrored < 20


def test_two_views_are_not_turned():
    with pytest.raises(UserError, match="coordinates: left and right views cannot be turned"):
        changed(0, example=coordinates(9, 12, views=2), quarter_turns=True)


def test_input_stays_as_it_was_and_output_does_not_hold_it():
    example = coordinates(9, 9)
    before = {key: np.copy(value) for key, value in example.items()}
    for crop in (5, 9):
        result = changed(0, crop, example, vertical_flip=True, quarter_turns=True)
        for key in ("blurred", "sharp", "radius"):
            assert result[key].shape[:2] == (crop, crop)
            assert result[key].flags.c_contiguous
            assert result[key].base is None
            np.testing.assert_array_equal(example[key], before[key])


@pytest.mark.parametrize("crop", [10, 13, 0])
def test_crop_that_does_not_fit_is_refused_with_both_sizes(crop):
    sizes = rf"coordinates: no crop of {crop} x {crop} in 12 x 9 pixels"
    with pytest.raises(UserError, match=sizes):
        changed(0, crop)


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535)])
def test_unit_range_on_host_and_device(dtype, white):
    pixels = np.linspace(0, white, 1000).round().astype(dtype).reshape(10, 100)
    expected = pixels.astype(np.float64) / white
    for floats in (unit_range(pixels), jax.jit(unit_range)(pixels)):
        assert floats.dtype == np.float32
        assert floats.min() == 0
        assert floats.max() == 1
        np.testing.assert_allclose(floats, expected, rtol=1.2e-7)
