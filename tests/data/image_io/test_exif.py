"""EXIF: changed in place, so that maker notes stay right; descriptions of the old layout go."""

import io
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.data.image_io.made_up_files import (
    SRGB,
    loaded,
    noise,
    tiff,
)
from tests.data.image_io.written_files import (
    UPRIGHT_XMP,
    XMP,
    jpeg,
    pillow_info,
    rewritten,
)
from vitdeblur_jax.data.image_io import read_image, write_image


def exif_with_maker_note(orientation: int) -> bytes:
    """EXIF with a maker note that points to an absolute position, and a thumbnail."""
    entry = struct.Struct("<HHII")
    ifd0, sub, note, text = 8, 200, 300, 400
    stream = bytearray(600)
    stream[:8] = struct.pack("<4sI", b"II*\0", ifd0)
    entries = [
        (256, 4, 1, 5),
        (257, 4, 1, 6),
        (274, 3, 1, orientation),
        (282, 5, 1, 500),
        (283, 5, 1, 508),
        (0x8769, 4, 1, sub),
    ]
    stream[ifd0 : ifd0 + 2] = struct.pack("<H", len(entries))
    for index, fields in enumerate(entries):
        entry.pack_into(stream, ifd0 + 2 + 12 * index, *fields)
    struct.pack_into("<I", stream, ifd0 + 2 + 12 * len(entries), 550)  # the thumbnail
    struct.pack_into("<IIII", stream, 500, 300, 1, 200, 1)
    entries = [(0x927C, 7, 40, note), (40962, 3, 1, 5), (40963, 4, 1, 6)]
    stream[sub : sub + 2] = struct.pack("<H", len(entries))
    for index, fields in enumerate(entries):
        entry.pack_into(stream, sub + 2 + 12 * index, *fields)
    stream[note : note + 12] = b"MAKER" + b"\0\0\0" + struct.pack("<I", text)
    stream[text : text + 6] = b"secret"
    struct.pack_into("<HHHII", stream, 550, 1, 259, 3, 1, 6)
    return bytes(stream)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_maker_note_finds_what_it_points_to(suffix, orientation):
    source = exif_with_maker_note(orientation)
    data = rewritten(jpeg(exif=b"Exif\0\0" + source), suffix)
    stream = data if suffix == ".tif" else pillow_info(data)["exif"].removeprefix(b"Exif\0\0")
    exif = Image.Exif()
    exif.load(stream) if suffix != ".tif" else exif.load_from_fp(io.BytesIO(stream))
    assert exif.get(274, 1) == 1
    assert not exif.get_ifd(1)  # no thumbnail
    maker_note = exif.get_ifd(0x8769)[0x927C]
    (position,) = struct.unpack_from("<I", maker_note, 8)
    assert stream[position : position + 6] == b"secret"
    turned = orientation == 6
    sub = exif.get_ifd(0x8769)
    assert (sub[40962], sub[40963]) == ((6, 5) if turned else (5, 6))
    assert (exif[282], exif[283]) == ((200, 300) if turned else (300, 200))
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == ((6, 5) if turned else (5, 6))
    if suffix != ".tif":
        changed = [at for at, (a, b) in enumerate(zip(source, stream, strict=True)) if a != b]
        assert set(changed) <= {*range(8, 90), *range(200, 240)}


def test_resolution_and_xmp_are_turned_with_the_pixels():
    exif = Image.Exif()
    exif[274] = 6
    data = jpeg(exif=exif.tobytes(), xmp=XMP, dpi=(300, 200))
    info = pillow_info(rewritten(data, ".jpg"))
    assert info["jfif_density"] == (200, 300)
    assert info["xmp"] == UPRIGHT_XMP.replace(b"PixelX", b"PixelY")


def test_a_maker_note_of_a_tiff_is_moved_and_that_is_told():
    data = rewritten(jpeg(exif=b"Exif\0\0" + exif_with_maker_note(1)), ".tif")
    (note,) = read_image(data).notes
    assert "maker note" in note
    kept = loaded(pillow_info(rewritten(data, ".jpg"))["exif"].removeprefix(b"Exif\0\0"))
    assert kept.get_ifd(0x8769)[0x927C].startswith(b"MAKER")


@pytest.mark.parametrize(
    "options",
    [
        {"ome": True, "photometric": "minisblack"},
        {"imagej": True},
        {"metadata": {"axes": "ZYX"}, "photometric": "minisblack"},
    ],
)
def test_a_description_of_the_old_layout_is_dropped(tmp_path, options):
    pages = noise(3, 6, 5)
    data = tiff(pages, **({"metadata": {}} | options))
    decoded = read_image(data)
    assert "the description of the input file's pixel layout is left out" in decoded.notes
    path = tmp_path / "out.tif"
    write_image(decoded, path)
    np.testing.assert_array_equal(tifffile.imread(path), pages[0])
    with tifffile.TiffFile(path) as file:
        assert 270 not in file.pages.first.tags
    # An EXIF that someone made of such a file.
    exif = Image.Exif()
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        exif[270] = file.pages.first.description
    stream = io.BytesIO(rewritten(jpeg(exif=exif.tobytes(), pixels=pages[0]), ".tif"))
    assert tifffile.imread(stream).shape == (6, 5)


def test_a_description_by_a_person_is_kept(tmp_path):
    data = tiff(noise(6, 5), description="the harbour", metadata=None)
    write_image(read_image(data), tmp_path / "out.tif")
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert file.pages.first.description == "the harbour"


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_exif_of_a_big_tiff_is_left_out_with_a_true_note(byteorder, dtype):
    pixels = noise(6, 5, 3, dtype=dtype)
    options = {"bigtiff": True, "byteorder": byteorder, "photometric": "rgb"}
    data = tiff(pixels, description="the harbour", iccprofile=SRGB, **options)
    decoded = read_image(data)
    np.testing.assert_array_equal(decoded.pixels, pixels)
    assert decoded.metadata.exif is None
    assert decoded.metadata.icc_profile == SRGB
    assert decoded.notes == ("EXIF left out: it has a BigTIFF header",)
    assert pillow_info(rewritten(data, ".png"))["icc_profile"] == SRGB
    png_with_it = jpeg(exif=b"Exif\0\0" + data[:400])
    assert read_image(png_with_it).notes == decoded.notes


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_width_and_height_of_a_rotated_tiff_are_swapped(suffix):
    written, exif = Image.Exif(), Image.Exif()
    written[0x0112] = 6
    written[0x8769] = {40962: 5, 40963: 6}
    exif.load(written.tobytes())
    stream = io.BytesIO()
    Image.fromarray(noise(6, 5, 3)).save(stream, "TIFF", exif=exif)
    again = read_image(rewritten(stream.getvalue(), suffix))
    assert again.pixels.shape == (5, 6, 3)
    found = Image.Exif()
    found.load(again.metadata.exif)
    assert found.get(0x0112, 1) == 1
    sides = found.get_ifd(0x8769)
    assert (sides[40962], sides[40963]) == (6, 5)
