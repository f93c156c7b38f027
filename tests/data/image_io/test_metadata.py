"""What a file tells beside the pixels: carried where the format holds it, named where it does not.

What was written is read back by Pillow, tifffile and `struct`, not by this package.
"""

import dataclasses
import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import BmpImagePlugin, Image, ImageCms

from tests.data.image_io.made_up_files import (
    GRAY,
    SRGB,
    chunk,
    encoded,
    exif_block,
    loaded,
    noise,
    png,
    tiff,
)
from vitdeblur_jax.data.image_io import read_photograph, what_is_lost, write_photograph
from vitdeblur_jax.errors import UserError

PICTURE = noise(6, 5, 3)
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6" exif:PixelXDimension="5"/></x:xmpmeta>'
UPRIGHT_XMP = XMP.replace(b'"6"', b'"1"')
IPTC = b"\x1c\x02\x78\x00\x05Hello"


def rewritten(data: bytes, suffix: str, **options: object) -> bytes:
    photograph = read_photograph(data)
    stream = io.BytesIO()
    write_photograph(photograph, stream, format=suffix, **options)
    return stream.getvalue()


def lost(data: bytes, suffix: str) -> tuple[str, ...]:
    return what_is_lost(read_photograph(data), suffix)


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 255, marker, len(content) + 2) + content


def jpeg(*segments: bytes, picture: np.ndarray = PICTURE, **options: object) -> bytes:
    data = encoded(picture, "JPEG", **options)
    return data[:20] + b"".join(segments) + data[20:]  # behind the JFIF header


def full_jpeg() -> bytes:
    resource = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC
    return jpeg(
        segment(0xED, b"Photoshop 3.0\0" + resource),
        exif=exif_block(1).tobytes(),
        xmp=XMP,
        comment=b"a comment",
        dpi=(300, 200),
        icc_profile=SRGB,
    )


def pillow_info(data: bytes) -> dict[str, object]:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return {**image.info, "tags": getattr(image, "tag_v2", None)}


def png_chunks(data: bytes) -> dict[bytes, bytes]:
    found, at = {}, 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert zlib.crc32(kind + content) == struct.unpack_from(">I", data, at + 8 + length)[0]
        found[kind] = content
        at += 12 + length
    return found


def test_jpeg_to_jpeg_keeps_everything():
    info = pillow_info(rewritten(full_jpeg(), ".jpg"))
    assert info["icc_profile"] == SRGB
    assert info["xmp"] == UPRIGHT_XMP
    assert info["photoshop"][0x0404] == IPTC
    assert info["comment"] == b"a comment"
    assert (info["jfif_density"], info["jfif_unit"]) == ((300, 200), 1)
    assert lost(full_jpeg(), ".jpg") == ()


def test_jpeg_to_tiff_keeps_all_but_the_comment():
    data = rewritten(full_jpeg(), ".tif")
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tags = file.pages.first.tags
        assert tags.valueof(700) == UPRIGHT_XMP
        assert tags.valueof(33723) == IPTC
        assert tags.valueof(34675) == SRGB
        assert (tags.valueof(282), tags.valueof(283)) == ((300, 1), (200, 1))
        assert tags.valueof(271) == "Maker"
    assert pillow_info(data)["dpi"] == (300, 200)
    assert lost(full_jpeg(), ".tif") == ("TIFF: left out: the comment",)


def test_jpeg_to_png_and_back_keeps_resolution_xmp_and_comment():
    data = rewritten(full_jpeg(), ".png")
    info = pillow_info(data)
    assert info["xmp"] == UPRIGHT_XMP
    assert info["Comment"] == "a comment"
    assert png_chunks(data)[b"pHYs"] == struct.pack(">IIB", 11811, 7874, 1)
    assert lost(full_jpeg(), ".png") == ("PNG: left out: IPTC",)
    info = pillow_info(rewritten(data, ".jpg"))
    assert info["xmp"] == UPRIGHT_XMP
    assert info["comment"] == b"a comment"
    assert info["jfif_density"] == (300, 200)


def test_what_webp_and_bmp_cannot_hold_is_one_note():
    assert lost(full_jpeg(), ".webp") == ("WEBP: left out: IPTC, the comment, the resolution",)
    info = pillow_info(rewritten(full_jpeg(), ".webp"))
    assert (info["xmp"], info["icc_profile"]) == (UPRIGHT_XMP, SRGB)
    (note,) = lost(full_jpeg(), ".bmp")
    assert note == "BMP: left out: the color profile, EXIF, XMP, IPTC, the comment"
    dpi = pillow_info(rewritten(full_jpeg(), ".bmp"))["dpi"]
    np.testing.assert_allclose(dpi, (300, 200), atol=0.02)


@pytest.mark.parametrize("depth", [8, 16])
def test_png_to_png_keeps_its_chunks_bit_for_bit(depth):
    kept = {
        b"gAMA": struct.pack(">I", 100_000),
        b"cHRM": struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000),
        b"cICP": b"\x09\x10\0\1",
        b"pHYs": struct.pack(">IIB", 3, 2, 0),
        b"tEXt": b"Author\0somebody",
        b"zTXt": b"Title\0\0" + zlib.compress(b"a title"),
        b"iTXt": b"Software\0\0\0en\0\0a program",
        b"tIME": bytes(7),
    }
    row = bytes(5 * 3 * depth // 8)
    data = png(2, depth, (5, 2), [row, row], *(chunk(*pair) for pair in kept.items()))
    again = png_chunks(rewritten(data, ".png"))
    assert {kind: again.get(kind) for kind in kept} == kept
    assert lost(data, ".png") == ()
    note = lost(data, ".jpg")[-1]
    assert note == "JPEG: left out: the PNG's color definition, the PNG's text"


def test_colors_of_a_png_become_a_profile_elsewhere():
    rows = [bytes(range(15))]
    linear = chunk(b"gAMA", struct.pack(">I", 100_000))
    for color, channels, space in ((0, 1, "GRAY"), (2, 3, "RGB ")):
        data = png(color, 8, (5, 1), [rows[0][: 5 * channels]], linear)
        profile = pillow_info(rewritten(data, ".jpg"))["icc_profile"]
        assert lost(data, ".jpg") == ()
        profile = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        assert profile.profile.xcolor_space == space
        mode = "L" if channels == 1 else "RGB"
        image = Image.new(mode, (1, 1), 128 if channels == 1 else (128,) * 3)
        srgb = ImageCms.createProfile("sRGB")
        seen = ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB")
        # Half of the light is 188 of 255 in sRGB.
        np.testing.assert_allclose(np.asarray(seen)[0, 0], 188, atol=1)
    as_srgb = chunk(b"gAMA", struct.pack(">I", 45_455))
    plain = png(2, 8, (5, 1), rows, as_srgb, chunk(b"sRGB", b"\0"))
    assert "icc_profile" not in pillow_info(rewritten(plain, ".jpg"))
    assert lost(plain, ".jpg") == ()


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


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
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
    (note,) = read_photograph(data).notes
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
    photograph = read_photograph(data)
    assert "the description of the old file's layout is left out" in photograph.notes
    path = tmp_path / "out.tif"
    write_photograph(photograph, path)
    np.testing.assert_array_equal(tifffile.imread(path), pages[0])
    with tifffile.TiffFile(path) as file:
        assert 270 not in file.pages.first.tags
    # An EXIF that someone made of such a file.
    exif = Image.Exif()
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        exif[270] = file.pages.first.description
    stream = io.BytesIO(rewritten(jpeg(exif=exif.tobytes(), picture=pages[0]), ".tif"))
    assert tifffile.imread(stream).shape == (6, 5)


def test_a_description_by_a_person_is_kept(tmp_path):
    data = tiff(noise(6, 5), description="the harbour", metadata=None)
    write_photograph(read_photograph(data), tmp_path / "out.tif")
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert file.pages.first.description == "the harbour"


def test_other_tags_and_segments_are_named():
    data = tiff(noise(6, 5), extratags=[(33550, "d", 3, (1.0, 1.0, 0.0), True)])
    assert lost(data, ".tif") == ("TIFF: left out: the tag ModelPixelScaleTag",)
    more = segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(40))
    (note,) = lost(jpeg(more, segment(0xEB, b"JP\0\0junk")), ".jpg")
    assert note == "JPEG: left out: extended XMP, the segment 'JP'"


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_exif_of_a_big_tiff_is_left_out_with_a_true_note(byteorder, dtype):
    picture = noise(6, 5, 3, dtype=dtype)
    options = {"bigtiff": True, "byteorder": byteorder, "photometric": "rgb"}
    data = tiff(picture, description="the harbour", iccprofile=SRGB, **options)
    photograph = read_photograph(data)
    np.testing.assert_array_equal(photograph.pixels, picture)
    assert photograph.metadata.exif is None
    assert photograph.metadata.icc_profile == SRGB
    assert photograph.notes == ("EXIF left out: its header is that of a BigTIFF",)
    assert pillow_info(rewritten(data, ".png"))["icc_profile"] == SRGB
    png_with_it = jpeg(exif=b"Exif\0\0" + data[:400])
    assert read_photograph(png_with_it).notes == photograph.notes


def test_a_profile_of_gray_is_never_attached_to_rgb():
    data = encoded(noise(6, 5), "JPEG", icc_profile=GRAY)
    assert pillow_info(rewritten(data, ".jpg"))["icc_profile"] == GRAY
    webp = rewritten(data, ".webp")
    profile = ImageCms.ImageCmsProfile(io.BytesIO(pillow_info(webp)["icc_profile"]))
    assert profile.profile.xcolor_space == "RGB "
    assert lost(data, ".webp") == ("WEBP: gray becomes RGB, its color profile sRGB",)
    broken = encoded(PICTURE, "PNG", icc_profile=GRAY)
    assert "icc_profile" not in pillow_info(rewritten(broken, ".jpg"))
    assert lost(broken, ".jpg") == ("JPEG: left out: the color profile, which is one of gray",)


def test_gray_is_converted_by_its_profile():
    linear = imagecodecs.cms_profile("gray", gamma=1.0)
    data = encoded(np.full((6, 5), 128, np.uint8), "PNG", icc_profile=linear)
    with Image.open(io.BytesIO(rewritten(data, ".webp", quality=100))) as image:
        np.testing.assert_allclose(np.asarray(image), 188, atol=3)


def test_metadata_too_long_for_a_jpeg_is_named():
    photograph = read_photograph(full_jpeg())
    long = photograph.metadata.replace(xmp=bytes(70_000), iptc=bytes(66_000))
    photograph = dataclasses.replace(photograph, metadata=long)
    assert what_is_lost(photograph, ".jpg") == ("JPEG: left out: XMP, IPTC",)
    write_photograph(photograph, io.BytesIO(), format=".jpg")


def test_a_webp_that_was_lossless_stays_so():
    picture = noise(20, 30, 4)
    data = encoded(picture, "WEBP", lossless=True, exact=True)
    with Image.open(io.BytesIO(rewritten(data, ".webp"))) as image:
        np.testing.assert_array_equal(np.asarray(image), picture)
    lossy = rewritten(encoded(picture, "WEBP", quality=80), ".webp")
    assert b"VP8 " in lossy
    assert b"VP8 " in rewritten(data, ".webp", quality=50)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [30, 75, 98])
def test_a_jpeg_keeps_its_quality_and_subsampling(quality, subsampling):
    picture = noise(40, 50, 3)
    data = encoded(picture, "JPEG", quality=quality, subsampling=subsampling)
    again = rewritten(data, ".jpg")
    with Image.open(io.BytesIO(data)) as old, Image.open(io.BytesIO(again)) as new:
        assert old.quantization == new.quantization
        assert old.layer == new.layer
    assert abs(len(again) / len(data) - 1) < 0.1


def test_quality_is_what_was_asked_for():
    picture = noise(40, 50, 3)
    data = encoded(picture, "JPEG", quality=75, subsampling=2)
    expected = encoded(np.asarray(Image.open(io.BytesIO(data))), "JPEG", quality=40, subsampling=2)
    assert rewritten(data, ".jpg", quality=40) == expected
    plain = encoded(picture, "PNG")
    assert rewritten(plain, ".jpg") == encoded(picture, "JPEG", quality=95, subsampling=0)
    assert len(rewritten(plain, ".webp", quality=10)) < len(rewritten(plain, ".webp"))
    for quality in (0, 101):
        with pytest.raises(UserError, match="from 1 to 100"):
            rewritten(plain, ".jpg", quality=quality)


def test_resolution_of_a_bmp():
    data = encoded(PICTURE, "BMP", dpi=(300, 200))
    assert isinstance(Image.open(io.BytesIO(data)), BmpImagePlugin.BmpImageFile)
    assert png_chunks(rewritten(data, ".png"))[b"pHYs"] == struct.pack(">IIB", 11811, 7874, 1)
