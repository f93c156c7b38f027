"""Damage that a decoder notices: an error in data sets, a note for a person's own image."""

import io

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.data.image_io.made_up_files import encoded, noise, tiff
from vitdeblur_jax.data.image_io import read_image, read_rgb
from vitdeblur_jax.data.integrity import check_data
from vitdeblur_jax.utils.errors import UserError

SMOOTH = np.add.outer(np.arange(120), np.arange(160))[..., None].repeat(3, 2).astype(np.uint8)
PIXELS = (SMOOTH // 2 + noise(120, 160, 3) // 8).astype(np.uint8)


def damaged_jpegs(**options: object) -> dict[str, bytes]:
    data = encoded(PIXELS, "JPEG", quality=95, **options)
    half = len(data) // 2
    zeroed = data[:half] + bytes(2000) + data[half + 2000 :]
    return {
        "half with an end": data[:half] + b"\xff\xd9",
        "zeroed": zeroed,
        "cut out": data[:half] + data[half + 3000 :],
        "half": data[:half],
    }


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 8}])
def test_a_damaged_jpeg_is_an_error_in_data_and_a_note_for_an_image(options):
    for what, data in damaged_jpegs(**options).items():
        with pytest.raises(UserError, match="damaged"):
            read_image(data)
        decoded = read_image(data, accept_damage=True)
        assert decoded.pixels.shape == PIXELS.shape, what
        assert "damaged" in decoded.notes[0]
        assert not np.array_equal(decoded.pixels, read_image(whole(options)).pixels)
    assert read_image(whole(options)).notes == ()


def whole(options: dict[str, object]) -> bytes:
    return encoded(PIXELS, "JPEG", quality=95, **options)


def test_a_jpeg_without_its_end_marker_is_whole_and_noted():
    data = whole({})
    for missing in (1, 2):
        decoded = read_image(data[:-missing], accept_damage=True)
        np.testing.assert_array_equal(decoded.pixels, read_image(data).pixels)
        assert "the end marker is missing" in decoded.notes[0]
        with pytest.raises(UserError, match="end marker is missing"):
            read_image(data[:-missing])
    assert "Premature" in read_image(data[:-3000], accept_damage=True).notes[0]


def test_bytes_behind_a_jpeg_are_no_damage():
    data = whole({})
    np.testing.assert_array_equal(read_image(data + bytes(100)).pixels, read_image(data).pixels)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_jpeg_pixels_are_those_of_pillow(mode, subsampling):
    data = encoded(Image.fromarray(PIXELS).convert(mode), "JPEG", subsampling=subsampling)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(read_image(data).pixels, expected)


def black_and_white() -> np.ndarray:
    return np.kron(np.random.default_rng(0).random((40, 64)) > 0.7, np.ones((4, 8))) > 0


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_bad_code_words_of_a_fax_tiff_are_noticed(compression, capfd):
    pixels = black_and_white()
    data = encoded(pixels, "TIFF", compression=compression)
    for rows_per_strip in ({}, {278: 32}):
        data = encoded(pixels, "TIFF", compression=compression, tiffinfo=rows_per_strip)
        np.testing.assert_array_equal(read_image(data).pixels[..., 0], pixels * 255)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        middle = page.dataoffsets[0] + page.databytecounts[0] // 2
    for junk in (bytes(40), b""):
        broken = data[:middle] + junk + data[middle + len(junk) :]
        if not junk:  # the strip ends early
            page_bytes = page.databytecounts[0] // 2
            broken = data[:middle] + bytes(page_bytes) + data[middle + page_bytes :]
        with pytest.raises(UserError, match="bad code words"):
            read_image(broken)
        decoded = read_image(broken, accept_damage=True)
        assert decoded.pixels.shape == (*pixels.shape, 3)
        assert "bad code words" in decoded.notes[0]
    assert capfd.readouterr().err == ""


def test_a_damaged_jpeg_inside_of_a_tiff_is_noticed(capfd):
    data = tiff(PIXELS, photometric="rgb", compression="jpeg", rowsperstrip=64)
    assert read_image(data).notes == ()
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        middle = page.dataoffsets[0] + page.databytecounts[0] // 2
    broken = data[:middle] + bytes(300) + data[middle + 300 :]
    with pytest.raises(UserError, match="damaged"):
        read_image(broken)
    assert "damaged" in read_image(broken, accept_damage=True).notes[0]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("compression", ["lzw", "zlib", "packbits"])
def test_a_damaged_tiff_is_one_line_and_nothing_of_libtiff(compression, capfd):
    data = tiff(SMOOTH, photometric="rgb", compression=compression, rowsperstrip=120)
    np.testing.assert_array_equal(read_image(data).pixels, SMOOTH)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        (start,), (count,) = file.pages.first.dataoffsets, file.pages.first.databytecounts
    broken = data[: start + 20] + b"\xff" * (count - 20) + data[start + count :]
    with pytest.raises(UserError, match="damaged") as caught:
        read_image(broken)
    assert "decoder error" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_check_finds_a_damaged_jpeg(tmp_path):
    for folder in ("input", "target"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.jpg").write_bytes(whole({}))
    assert not check_data(tmp_path).problems
    (tmp_path / "input/1.jpg").write_bytes(damaged_jpegs()["zeroed"])
    (problem,) = check_data(tmp_path).problems
    assert problem.kind == "unreadable"
    with pytest.raises(UserError, match="damaged"):
        read_rgb(tmp_path / "input/1.jpg")
    assert imagecodecs.jpeg8_decode(damaged_jpegs()["zeroed"]).shape == PIXELS.shape
