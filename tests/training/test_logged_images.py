"""Logged images, against the definition pixel by pixel."""

import numpy as np
import pytest

from vitdeblur_jax.training.logged_images import ERROR_GAIN, comparison

WHITE = 255


def random_images(height, width, views=1):
    rng = np.random.default_rng(0)
    blurred = rng.random((height, width, 3 * views), np.float32)
    restored, sharp = rng.random((2, height, width, 3), np.float32)
    return blurred, restored, sharp


def panels(logged, width):
    gap = (logged.shape[1] - 4 * width) // 3
    assert gap > 0
    return [logged[:, k * (width + gap) :][:, :width] for k in range(4)]


def test_four_panels_with_white_gaps():
    blurred, restored, sharp = random_images(5, 7)
    logged = comparison(blurred, restored, sharp)
    shown = panels(logged, 7)
    for panel, image in zip(shown, (blurred, restored, sharp), strict=False):
        np.testing.assert_array_equal(panel, np.floor(255 * image + 0.5))
    columns = np.ones(logged.shape[1], bool)
    gap = (logged.shape[1] - 28) // 3
    for k in range(4):
        columns[k * (7 + gap) : k * (7 + gap) + 7] = False
    assert (logged[:, columns] == WHITE).all()


def test_the_error_is_gray_and_five_times_the_mean_difference():
    sharp = np.full((2, 2, 3), 0.5, np.float32)
    restored = sharp.copy()
    restored[0, 1] += [0.06, -0.03, 0.0]
    restored[1, 0] += 0.4
    error = panels(comparison(sharp, restored, sharp), 2)[3]
    expected = [[0, round(255 * 0.03 * 5)], [WHITE, 0]]
    assert ERROR_GAIN == 5
    for channel in range(3):
        np.testing.assert_array_equal(error[..., channel], expected)


def test_two_views_are_shown_as_their_mean():
    blurred, restored, sharp = random_images(4, 4, views=2)
    shown = panels(comparison(blurred, restored, sharp), 4)[0]
    mean = (blurred[..., :3].astype(np.float64) + blurred[..., 3:]) / 2
    assert np.abs(shown - 255 * mean).max() <= 0.5 + 1e-4


def test_what_is_out_of_range_is_clipped_and_what_is_no_number_is_black():
    sharp = np.full((1, 4, 3), 1.0, np.float32)
    restored = np.array([1.7, -0.2, np.nan, np.inf], np.float32)[None, :, None].repeat(3, 2)
    shown = panels(comparison(sharp, restored, sharp), 4)
    assert shown[1][0, :, 0].tolist() == [255, 0, 0, 255]
    assert shown[3][0, :, 0].tolist() == [0, 255, 255, 0]  # 1.7 is taken as the 1 that is shown


@pytest.mark.parametrize(("height", "width", "rows", "columns"), [(8, 12, 3, 4), (12, 8, 4, 3)])
def test_larger_images_are_shrunk_to_the_longest_side(height, width, rows, columns):
    logged = comparison(*random_images(height, width), longest=4)
    gaps = comparison(*random_images(4, 4)).shape[1] - 4 * 4
    assert logged.shape == (rows, 4 * columns + gaps, 3)


def test_a_shrunk_pixel_is_the_mean_of_what_it_covers():
    images = random_images(12, 12)
    sharp = panels(comparison(*images, longest=4), 4)[2]
    expected = 255 * images[2].reshape(4, 3, 4, 3, 3).mean((1, 3))
    assert np.abs(sharp - expected).max() <= 1.01  # of 8 bits, rounded before and after


def test_smaller_images_keep_their_size():
    assert comparison(*random_images(6, 10), longest=10).shape[0] == 6
