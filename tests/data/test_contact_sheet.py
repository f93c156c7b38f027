"""Contact sheets: every image is on it, unchanged, and colours tell the radius."""

import numpy as np
import pytest

from vitdeblur_jax.data.contact_sheet import colour_radius, contact_sheet


def image(rng: np.random.Generator, *shape: int, dtype=np.uint8) -> np.ndarray:
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def holds(sheet: np.ndarray, part: np.ndarray) -> bool:
    windows = np.lib.stride_tricks.sliding_window_view(sheet, part.shape)[:, :, 0]
    return bool((windows == part).all((2, 3, 4)).any())


def test_every_image_is_on_the_sheet():
    rng = np.random.default_rng(0)
    radius = rng.uniform(-3, 5, (12, 10)).astype(np.float32)
    full = {"blurred": image(rng, 12, 10, 6), "sharp": image(rng, 12, 10, 3), "radius": radius}
    bare = {"name": "bare", "blurred": image(rng, 9, 14, 3)}
    sheet = contact_sheet([full, bare])
    assert sheet.dtype == np.uint8
    for part in (full["blurred"][..., :3], full["blurred"][..., 3:], full["sharp"]):
        assert holds(sheet, part)
    assert holds(sheet, colour_radius(radius, float(np.abs(radius).max())))
    assert holds(sheet, bare["blurred"])


def test_16_bits_are_shown_by_their_upper_8():
    deep = image(np.random.default_rng(0), 8, 8, 3, dtype=np.uint16)
    assert holds(contact_sheet([{"blurred": deep}]), (deep >> 8).astype(np.uint8))


def test_colours_tell_the_sign_and_the_size_of_the_radius():
    near, focus, far = colour_radius(np.float32([[-4, 0, 4]]), 4.0)[0].astype(int)
    assert near[2] > near[0] + 50  # blue
    assert far[0] > far[2] + 50  # red
    assert focus.min() > 240
    radius = np.linspace(0, 4, 50, dtype=np.float32)[None]
    luminance = colour_radius(radius, 4.0)[0].astype(int).sum(-1)
    assert (np.diff(luminance) < 0).all()


@pytest.mark.parametrize("radius", [0.0, 2.0])
def test_one_radius_all_over(radius):
    example = {"name": "flat", "blurred": np.zeros((8, 8, 3), np.uint8)}
    sheet = contact_sheet([example | {"radius": np.full((8, 8), radius, np.float32)}])
    assert sheet.shape[2] == 3
