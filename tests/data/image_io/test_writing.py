"""The writer of images, against Pillow, tifffile and imagecodecs."""

import dataclasses
import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.data.image_io.made_up_files import (
    SRGB,
    encoded,
    kinds_of_images,
    loaded,
    noise,
)
from vitdeblur_jax.data.image_io import (
    IMAGE_SUFFIXES,
    DecodedImage,
    read_image,
    read_rgb,
    what_is_lost,
    write_image,
)
from vitdeblur_jax.data.image_io.formats import FORMATS, is_available
from vitdeblur_jax.utils.errors import UserError


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
@pytest.mark.parametrize("number", range(8))
def test_lossless_round_trip_keeps_everything(tmp_path, suffix, number):
    decoded = kinds_of_images()[number]
    path = tmp_path / f"out{suffix}"
    write_image(decoded, path)
    again = read_image(path)
    np.testing.assert_array_equal(again.pixels, decoded.pixels)
    assert again.pixels.dtype == decoded.pixels.dtype
    assert again.is_gray == decoded.is_gray
    assert (again.alpha is None) == (decoded.alpha is None)
    if decoded.alpha is not None:
        np.testing.assert_array_equal(again.alpha, decoded.alpha)
    assert again.metadata.icc_profile == decoded.metadata.icc_profile
    assert loaded(again.metadata.exif)[271] == "Maker"
    assert loaded(again.metadata.exif).get_ifd(0x8769)[36867] == "2020:01:02 03:04:05"
    assert loaded(again.metadata.exif).get_ifd(0x8825)[1] == "N"
    assert again.notes == what_is_lost(decoded, suffix) == ()
    stored = (
        tifffile.imread(path) if suffix != ".png" else imagecodecs.png_decode(path.read_bytes())
    )
    colours = decoded.pixels[..., :1] if decoded.is_gray else decoded.pixels
    if decoded.alpha is not None:
        colours = np.concatenate([colours, decoded.alpha[..., None]], axis=-1)
    np.testing.assert_array_equal(stored, colours.squeeze())
    assert list(tmp_path.iterdir()) == [path]


def test_gray_is_written_as_its_luminance():
    pixels = noise(40, 50, 3)
    stream = io.BytesIO()
    write_image(DecodedImage(pixels, is_gray=True), stream, format="png")
    with Image.open(stream) as image:
        assert image.mode == "L"
        expected = np.floor(pixels.astype(float) @ [0.299, 0.587, 0.114] + 0.5 + 1e-9)
        np.testing.assert_array_equal(np.asarray(image), expected)


def test_jpeg_is_of_full_colour_resolution_and_keeps_metadata():
    decoded = kinds_of_images()[0]
    for name in ("jpg", ".jpeg"):
        stream = io.BytesIO()
        write_image(decoded, stream, format=name)
        with Image.open(stream) as image:
            assert image.format == "JPEG"
            assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3
            assert image.info["icc_profile"] == SRGB
            assert image.getexif()[271] == "Maker"
            oracle = encoded(decoded.pixels, "JPEG", quality=95, subsampling=0)
            with Image.open(io.BytesIO(oracle)) as other:
                np.testing.assert_array_equal(np.asarray(image), np.asarray(other))


def test_what_a_format_cannot_hold_is_told_and_left_out():
    plain, deep = kinds_of_images()[0], kinds_of_images()[5]
    assert what_is_lost(plain, ".jpg") == what_is_lost(deep, ".png") == ()
    assert what_is_lost(deep, "jpg") == (
        "JPEG: 16 bits per channel are reduced to 8",
        "JPEG: transparency is left out",
    )
    assert what_is_lost(deep, ".webp") == ("WEBP: 16 bits per channel are reduced to 8",)
    assert what_is_lost(deep, ".bmp")[2:] == ("BMP: left out: the color profile, EXIF",)
    stream = io.BytesIO()
    write_image(deep, stream, format=".bmp")
    with Image.open(stream) as image:
        assert image.mode == "RGB"
        expected = np.rint(deep.pixels / 257)
        np.testing.assert_array_equal(np.asarray(image), expected)
    for decoded in kinds_of_images():
        for suffix in filter(lambda one: is_available(FORMATS[one]), IMAGE_SUFFIXES):
            stream = io.BytesIO()
            write_image(decoded, stream, format=suffix)
            again = read_image(stream.getvalue())
            told = " ".join(what_is_lost(decoded, suffix))
            is_reduced = again.pixels.dtype != decoded.pixels.dtype
            assert ("reduced to 8" in told) == is_reduced
            assert ("transparency" in told) == ((again.alpha is None) != (decoded.alpha is None))
            has_profile = again.metadata.icc_profile is not None
            assert ("the color profile" in told) == (not has_profile or "gray becomes" in told)
            assert ("EXIF" in told) == (again.metadata.exif is None)


@pytest.mark.parametrize("name", ["out.xyz", "out", "out.gif"])
def test_unknown_ending_lists_the_good_ones(tmp_path, name):
    with pytest.raises(UserError, match=r"\.png, \.jpg") as caught:
        write_image(kinds_of_images()[0], tmp_path / name)
    assert repr(os.path.splitext(name)[1]) in str(caught.value)
    with pytest.raises(UserError, match="extension"):
        write_image(kinds_of_images()[0], io.BytesIO())
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written(tmp_path):
    decoded = kinds_of_images()[0]
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    for path, told in (
        (tmp_path / "file" / "out.png", "Not a directory"),
        (tmp_path / "missing" / "out.png", "No such file"),
        (tmp_path / "folder.png", "Is a directory"),
    ):
        with pytest.raises(UserError, match=told) as caught:
            write_image(decoded, path)
        assert str(caught.value).startswith(f"{path}: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]
    wide = DecodedImage(np.zeros((1, 70000, 3), np.uint8))
    with pytest.raises(UserError, match="cannot be written as JPEG"):
        write_image(wide, tmp_path / "wide.jpg")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["write", "replace"])
def test_a_failure_leaves_the_old_file_whole(tmp_path, monkeypatch, error, step):
    path = tmp_path / "out.png"
    path.write_bytes(b"the old file")

    def fail(*args):
        raise error

    if step == "replace":
        monkeypatch.setattr(os, "replace", fail)
    else:
        real = Path.write_bytes
        monkeypatch.setattr(Path, "write_bytes", lambda self, data: (real(self, data[:9]), fail()))
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else UserError):
        write_image(kinds_of_images()[0], path)
    monkeypatch.undo()
    assert path.read_bytes() == b"the old file"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk(tmp_path):
    path = tmp_path / "out.png"
    path.write_bytes(b"the old file")
    program = """
import resource, sys
import numpy as np
from vitdeblur_jax.data.image_io import DecodedImage, write_image
from vitdeblur_jax.data.image_io.formats import FORMATS, is_available
from vitdeblur_jax.utils.errors import UserError
pixels = np.random.default_rng(0).integers(0, 255, (100, 100, 3), np.uint8)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    write_image(DecodedImage(pixels), sys.argv[1])
except UserError as error:
    print(error)
"""
    command = [sys.executable, "-c", program, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == f"{path}: cannot be written (File too large)\n"
    assert path.read_bytes() == b"the old file"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "real.png").write_bytes(b"the old file")
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    decoded = kinds_of_images()[0]
    write_image(decoded, tmp_path / "link.png")
    assert (tmp_path / "link.png").is_symlink()
    np.testing.assert_array_equal(read_rgb(tmp_path / "real.png"), decoded.pixels)


def test_exif_of_a_sixteen_bit_tiff_says_nothing_of_the_old_pixels():
    decoded = kinds_of_images()[4]
    stream = io.BytesIO()
    write_image(decoded, stream, format="tif")
    again = read_image(stream.getvalue())
    assert set(loaded(again.metadata.exif)) == {271, 0x8769, 0x8825}
    larger = dataclasses.replace(again, pixels=noise(9, 8, 3, dtype=np.uint16))
    for suffix in ("tif", "png"):
        stream = io.BytesIO()
        write_image(larger, stream, format=suffix)
        np.testing.assert_array_equal(read_image(stream.getvalue()).pixels, larger.pixels)


@pytest.mark.parametrize(
    ("suffix", "longest"), [(".jpg", 65_500), (".webp", 16_383), (".avif", 32_768)]
)
def test_a_side_that_cannot_be_read_again_is_refused_before_any_work(suffix, longest):
    def strip(width):
        return DecodedImage(np.zeros((1, width, 3), np.uint8))

    stream = io.BytesIO()
    write_image(strip(longest), stream, format=suffix)
    assert read_image(stream.getvalue()).pixels.shape == (1, longest, 3)
    with pytest.raises(UserError, match=f"supports at most {longest} pixels per side"):
        what_is_lost(strip(longest + 1), suffix)
