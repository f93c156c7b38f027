"""AVIF and JPEG XL: hostile files, unusual colors and sizes."""

import struct
import tracemalloc

import imagecodecs
import numpy as np
import pytest

from tests.data.image_io.made_up_files import GRAY
from tests.data.image_io.test_avif_heic_jxl import samples, written_as
from vitdeblur_jax.data.image_io import DecodedImage, Metadata, read_image, what_is_lost
from vitdeblur_jax.data.image_io.avif import _depth
from vitdeblur_jax.data.image_io.jxl import _color_chunks
from vitdeblur_jax.data.image_io.jxl_header import Colors
from vitdeblur_jax.utils.errors import UserError


def test_only_the_first_of_many_compressed_boxes_is_expanded():
    packed = b"brobxml " + imagecodecs.brotli_encode(bytes(2**24), level=1)
    data = written_as(".jxl", DecodedImage(samples(8)))
    data += 10 * (struct.pack(">I", len(packed) + 4) + packed)
    tracemalloc.start()
    read_image(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * 2**24  # of one box, with its copies


@pytest.mark.parametrize(("stated", "depth"), [(10, 10), (12, 12), (32, 10)])
def test_a_depth_that_no_avif_has_is_not_believed(stated, depth):
    """32 bits would take a table of 34 GB; the coded image says 10."""
    properties = [(b"pixi", bytes([0, 0, 0, 0, 1, stated]))]
    assert _depth(b"av1C\x81\0\x40", properties) == depth


@pytest.mark.parametrize(("transfer", "gamma"), [(8, 1.0), (13, 1 / 2.2), (17, 1 / 2.6)])
def test_unusual_primaries_of_a_jxl_become_chunks(transfer, gamma):
    points = (0.3127, 0.329, 0.7, 0.3, 0.2, 0.7, 0.14, 0.05)
    chunks = _color_chunks(Colors(points=points, primaries=2, transfer=transfer))
    assert struct.unpack(">I", chunks[b"gAMA"]) == (round(1e5 * gamma),)
    assert struct.unpack(">8I", chunks[b"cHRM"]) == tuple(round(1e5 * x) for x in points)


def test_a_narrow_gray_image_with_a_profile_becomes_a_jxl():
    pixels = np.repeat(samples(8)[:, 7:8, :1], 3, axis=-1)
    wide, narrow = (
        DecodedImage(part, is_gray=True, metadata=Metadata(icc_profile=GRAY))
        for part in (np.repeat(pixels, 5, axis=1), pixels)
    )
    wide, narrow = (read_image(written_as(".jxl", image)).pixels for image in (wide, narrow))
    np.testing.assert_array_equal(narrow, wide[:, :1])


def test_a_jxl_without_its_image_is_not_written(monkeypatch):
    monkeypatch.setattr(imagecodecs, "jpegxl_encode", lambda *args, **options: bytes(20))
    with pytest.raises(UserError, match="cannot be written as JXL"):
        written_as(".jxl", DecodedImage(samples(8)))


def test_hdr_light_levels_are_told():
    color = {b"cICP": b"\x09\x10\0\1", b"cLLI": bytes(8)}
    image = DecodedImage(samples(16), metadata=Metadata(png_color=color))
    assert what_is_lost(image, ".png") == ()
    assert what_is_lost(image, ".jxl") == ("JXL: left out: the HDR light levels",)
