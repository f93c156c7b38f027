"""Camera raw files: what is one, how it is developed, and where its EXIF lies."""

import importlib.util
import io
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from tests.data.image_io.made_up_files import dng, encoded, exif_block, loaded, noise, tiff
from tests.data.image_io.written_files import UPRIGHT_XMP, XMP, pillow_info, rewritten
from vitdeblur_jax.data.image_io import read_image, size_of
from vitdeblur_jax.data.image_io.raw import is_raw_tiff, metadata_of
from vitdeblur_jax.utils.errors import UserError

HAS_RAW = importlib.util.find_spec("rawpy") is not None
needs_raw = pytest.mark.skipif(not HAS_RAW, reason="needs rawpy, of the extra 'raw'")
NEUTRAL = (0.5, 1.0, 0.625)  # what the sensor sees of white


def mosaic(rgb: np.ndarray, neutral: tuple[float, ...] = NEUTRAL) -> np.ndarray:
    """Returns what a sensor of 14 bits with the pattern RGGB sees of linear RGB."""
    seen = rgb * neutral
    result = np.empty(seen.shape[:2])
    for y in (0, 1):
        for x in (0, 1):
            result[y::2, x::2] = seen[y::2, x::2, y + x]
    return np.rint(result * 16_383).astype(np.uint16)


def srgb(linear: np.ndarray) -> np.ndarray:
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def scene() -> np.ndarray:
    y, x = np.mgrid[:80, :120]
    return np.stack([0.2 + 0.2 * x / 120, 0.3 + 0.1 * y / 80, 0.4 - 0.2 * x / 120], axis=-1)


@needs_raw
def test_a_raw_file_is_developed_with_the_white_balance_of_the_camera():
    data = dng(mosaic(scene()), neutral=NEUTRAL)
    decoded = read_image(data)
    assert decoded.pixels.dtype == np.uint16
    middle = np.s_[8:-8, 8:-8]
    developed = decoded.pixels[middle] / 65_535
    np.testing.assert_allclose(developed, srgb(scene())[middle], atol=0.004)
    note = "raw file developed to 16-bit sRGB with the camera's white balance"
    assert decoded.notes[0] == note
    assert loaded(decoded.metadata.exif)[271] == "Maker"


@needs_raw
def test_a_raw_file_is_that_of_rawpy():
    import rawpy

    data = dng(mosaic(noise(80, 120, 3) / 255), neutral=NEUTRAL)
    with rawpy.imread(io.BytesIO(data)) as file:
        expected = file.postprocess(
            gamma=(2.4, 12.92), no_auto_bright=True, output_bps=16, use_camera_wb=True
        )
    np.testing.assert_array_equal(read_image(data).pixels, expected)


@needs_raw
@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_orientation_of_a_raw_file(tmp_path, orientation, turns):
    path = tmp_path / "photo.dng"
    path.write_bytes(dng(mosaic(scene()), orientation, NEUTRAL))
    upright = np.rot90(read_image(dng(mosaic(scene()), 1, NEUTRAL)).pixels, turns)
    decoded = read_image(path)
    np.testing.assert_array_equal(decoded.pixels, upright)
    assert size_of(path) == upright.shape[1::-1]
    assert loaded(decoded.metadata.exif).get(274, 1) == 1


@needs_raw
def test_orientation_in_the_xmp_of_a_raw_file():
    decoded = read_image(dng(mosaic(scene()), 6, NEUTRAL, XMP))
    assert decoded.metadata.xmp == UPRIGHT_XMP.replace(b"PixelX", b"PixelY")


@needs_raw
def test_a_monochrome_sensor_gives_a_gray_image():
    tags = [(50706, 1, 4, b"\1\4\0\0"), (50708, 2, None, "Maker Model"), (50717, 4, 1, 16_383)]
    data = bytearray(tiff(mosaic(scene()), photometric="minisblack", extratags=tags))
    at = data.index(struct.pack("<HHIH", 262, 3, 1, 1))  # the photometric interpretation
    struct.pack_into("<H", data, at + 8, 34892)  # linear raw
    decoded = read_image(bytes(data))
    assert decoded.is_gray
    assert decoded.metadata.icc_profile is None  # that of RGB does not fit a gray file


@needs_raw
@pytest.mark.parametrize("format", [".png", ".tif"])
def test_a_raw_file_becomes_a_png_or_a_tiff_with_its_exif(format):
    data = dng(mosaic(scene()), neutral=NEUTRAL)
    result = rewritten(data, format)
    np.testing.assert_array_equal(read_image(result).pixels, read_image(data).pixels)
    with Image.open(io.BytesIO(result)) as image:
        assert image.getexif()[272] == "Model"
    profile = ImageCms.ImageCmsProfile(io.BytesIO(pillow_info(result)["icc_profile"]))
    assert "sRGB" in ImageCms.getProfileDescription(profile)


@needs_raw
def test_a_raw_file_cut_short_is_an_error_in_one_line(capfd, tmp_path):
    data = dng(mosaic(scene()))
    for size in (20, 300, len(data) // 2, len(data) - 8):
        with pytest.raises(UserError) as caught:
            read_image(data[:size])
        assert "\n" not in str(caught.value)
        (tmp_path / "cut.dng").write_bytes(data[:size])
        size_of(tmp_path / "cut.dng")
    assert "LibRaw (Unexpected end of file)" in str(caught.value)
    assert capfd.readouterr().err == ""


@needs_raw
def test_a_large_raw_file_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr("vitdeblur_jax.data.image_io.formats.MEMORY_LIMIT", 10**4)
    with pytest.raises(UserError, match=r"120 x 80 pixels take .* GiB to decode"):
        read_image(dng(mosaic(scene())))


def nef() -> bytes:
    """Returns a file laid out as of Nikon and Sony: a thumbnail, with the sensor below it."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        options = {"metadata": None, "extratags": [(271, 2, None, "NIKON CORPORATION")]}
        writer.write(noise(16, 24, 3), photometric="rgb", subfiletype=1, subifds=1, **options)
        writer.write(mosaic(scene()), photometric="cfa", metadata=None)
    return buffer.getvalue()


def test_what_is_a_raw_file(tmp_path):
    raw = [dng(mosaic(scene())), nef(), b"II*\0\x10\0\0\0CR\2\0" + bytes(99)]
    plain = [tiff(noise(6, 5, 3), photometric="rgb"), tiff(noise(6, 5)), b"II*\0" + bytes(20)]
    for data, is_one in [(data, True) for data in raw] + [(data, False) for data in plain]:
        path = tmp_path / "file"
        path.write_bytes(data)
        assert is_raw_tiff(data) == is_raw_tiff(path) == is_one


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content) + 8) + kind + content


def directory(tags: dict[int, object]) -> bytes:
    exif = Image.Exif()
    exif.update(tags)
    return exif.tobytes().removeprefix(b"Exif\0\0")


def test_exif_of_a_cr3():
    parts = {b"CMT1": {271: "Canon", 274: 6}, b"CMT2": {36867: "2020:01:02 03:04:05"}}
    parts[b"CMT4"] = {1: "N"}
    canon = bytes.fromhex("85c0b687820f11e08111f4ce462b6a48")
    canon += b"".join(box(kind, directory(tags)) for kind, tags in parts.items())
    data = box(b"ftyp", b"crx \0\0\0\1crx isom") + box(b"moov", box(b"uuid", canon))
    exif, _, notes = metadata_of(data)
    exif = loaded(exif)
    assert (exif[271], exif[274], notes) == ("Canon", 1, ())
    assert exif.get_ifd(0x8769)[36867] == "2020:01:02 03:04:05"
    assert exif.get_ifd(0x8825)[1] == "N"
    canon += box(b"CMT3", bytes(8))
    data = box(b"ftyp", b"crx \0\0\0\1crx isom") + box(b"moov", box(b"uuid", canon))
    _, _, notes = metadata_of(data)
    assert notes == ("the camera's maker note is left out",)


def test_exif_of_a_raf():
    preview = encoded(noise(16, 24, 3), "JPEG", exif=exif_block(6).tobytes())
    head = b"FUJIFILMCCD-RAW 0201".ljust(84, b"\0") + struct.pack(">II", 200, len(preview))
    exif, _, _ = metadata_of(head.ljust(200, b"\0") + preview + bytes(100))
    assert (loaded(exif)[271], loaded(exif)[274]) == ("Maker", 1)


@pytest.mark.parametrize("start", [b"IIRO", b"IIU\0", b"MMOR"])
def test_exif_of_raw_files_with_a_signature_of_their_own(start):
    order = ">" if start[:2] == b"MM" else "<"
    data = tiff(noise(6, 5), byteorder=order, extratags=[(271, 2, None, "Maker")])
    exif, _, _ = metadata_of(start + data[4:])
    assert loaded(exif)[271] == "Maker"


def test_damaged_exif_of_a_raw_file_is_left_out():
    for data in (b"FUJIFILMCCD-RAW " + bytes(90), b"IIRO\x10\0\0\0" + bytes(3)):
        assert metadata_of(data) == (None, None, ("EXIF left out: it is damaged",))
