"""A result is compressed as its image was, unless a quality is asked for."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.data.image_io.made_up_files import (
    encoded,
    noise,
)
from tests.data.image_io.written_files import rewritten
from vitdeblur_jax.utils.errors import UserError


def test_a_webp_that_was_lossless_stays_so():
    pixels = noise(20, 30, 4)
    data = encoded(pixels, "WEBP", lossless=True, exact=True)
    with Image.open(io.BytesIO(rewritten(data, ".webp"))) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)
    lossy = rewritten(encoded(pixels, "WEBP", quality=80), ".webp")
    assert b"VP8 " in lossy
    assert b"VP8 " in rewritten(data, ".webp", quality=50)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [30, 75, 98])
def test_a_jpeg_keeps_its_quality_and_subsampling(quality, subsampling):
    pixels = noise(40, 50, 3)
    data = encoded(pixels, "JPEG", quality=quality, subsampling=subsampling)
    again = rewritten(data, ".jpg")
    with Image.open(io.BytesIO(data)) as old, Image.open(io.BytesIO(again)) as new:
        assert old.quantization == new.quantization
        assert old.layer == new.layer
    assert abs(len(again) / len(data) - 1) < 0.1


def test_quality_is_what_was_asked_for():
    pixels = noise(40, 50, 3)
    data = encoded(pixels, "JPEG", quality=75, subsampling=2)
    expected = encoded(np.asarray(Image.open(io.BytesIO(data))), "JPEG", quality=40, subsampling=2)
    assert rewritten(data, ".jpg", quality=40) == expected
    plain = encoded(pixels, "PNG")
    assert rewritten(plain, ".jpg") == encoded(pixels, "JPEG", quality=95, subsampling=0)
    assert len(rewritten(plain, ".webp", quality=10)) < len(rewritten(plain, ".webp"))
    for quality in (0, 101):
        with pytest.raises(UserError, match="from 1 to 100"):
            rewritten(plain, ".jpg", quality=quality)


def test_quantization_tables_are_kept_whatever_their_numbers():
    """A gray JPEG that uses only table 1."""
    data = bytearray(encoded(noise(16, 16), "JPEG", quality=60))
    at = data.index(b"\xff\xdb")
    data[at + 4] |= 1  # the number of the table
    frame = data.index(b"\xff\xc0")
    assert data[frame + 12] == 0
    data[frame + 12] = 1
    again = rewritten(bytes(data), ".jpg")
    with Image.open(io.BytesIO(bytes(data))) as first, Image.open(io.BytesIO(again)) as second:
        assert first.quantization[1] == second.quantization[0]
