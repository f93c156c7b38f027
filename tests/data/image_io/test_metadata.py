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
    noise,
    png,
    tiff,
)
from tests.data.image_io.written_files import (
    IPTC,
    PIXELS,
    UPRIGHT_XMP,
    XMP,
    full_jpeg,
    jpeg,
    lost,
    pillow_info,
    png_chunks,
    rewritten,
    segment,
)
from vitdeblur_jax.data.image_io import read_image, what_is_lost, write_image


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
    assert note == "JPEG: left out: the color definition (CICP), the PNG's text"


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


def test_other_tags_and_segments_are_named():
    data = tiff(noise(6, 5), extratags=[(33550, "d", 3, (1.0, 1.0, 0.0), True)])
    assert lost(data, ".tif") == ("TIFF: left out: the tag ModelPixelScaleTag",)
    more = segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(40))
    (note,) = lost(jpeg(more, segment(0xEB, b"JP\0\0junk")), ".jpg")
    assert note == "JPEG: left out: extended XMP, the segment 'JP'"


def test_a_profile_of_gray_is_never_attached_to_rgb():
    data = encoded(noise(6, 5), "JPEG", icc_profile=GRAY)
    assert pillow_info(rewritten(data, ".jpg"))["icc_profile"] == GRAY
    webp = rewritten(data, ".webp")
    profile = ImageCms.ImageCmsProfile(io.BytesIO(pillow_info(webp)["icc_profile"]))
    assert profile.profile.xcolor_space == "RGB "
    assert lost(data, ".webp") == ("WEBP: gray becomes RGB with the color profile sRGB",)
    broken = encoded(PIXELS, "PNG", icc_profile=GRAY)
    assert "icc_profile" not in pillow_info(rewritten(broken, ".jpg"))
    assert lost(broken, ".jpg") == ("JPEG: left out: the color profile, which is for gray",)


def test_gray_is_converted_by_its_profile():
    linear = imagecodecs.cms_profile("gray", gamma=1.0)
    data = encoded(np.full((6, 5), 128, np.uint8), "PNG", icc_profile=linear)
    with Image.open(io.BytesIO(rewritten(data, ".webp", quality=100))) as image:
        np.testing.assert_allclose(np.asarray(image), 188, atol=3)


@pytest.mark.parametrize("suffix", [".webp", ".avif", ".heic"])
def test_gray_is_converted_by_the_gamma_of_a_png(suffix):
    if suffix == ".heic":
        pytest.importorskip("pillow_heif")
    linear = chunk(b"gAMA", struct.pack(">I", 100_000))
    row = bytes([128, 255]) * 5  # gray and alpha, which none of these stores as gray
    data = png(4, 8, (5, 6), [row] * 6, linear)
    name = suffix[1:].upper()
    assert lost(data, suffix) == (f"{name}: gray becomes RGB with the color profile sRGB",)
    again = read_image(rewritten(data, suffix, quality=100))
    profile = ImageCms.ImageCmsProfile(io.BytesIO(again.metadata.icc_profile))
    assert profile.profile.xcolor_space == "RGB "
    np.testing.assert_allclose(again.pixels, 188, atol=3)


@pytest.mark.parametrize("codes", [(1, 7), (9, 11), (3, 13), (22, 13)])
def test_color_codes_that_jpeg_xl_cannot_hold_are_left_out(codes):
    data = png(2, 8, (5, 1), [bytes(range(15))], chunk(b"cICP", bytes([*codes, 0, 1])))
    (note,) = lost(data, ".jxl")
    assert note == "JXL: left out: the color definition (CICP)"
    assert read_image(rewritten(data, ".jxl")).metadata.png_color == {}


def test_primaries_that_are_no_triangle_are_left_out():
    data = png(2, 8, (5, 1), [bytes(range(15))], chunk(b"cHRM", bytes(32)))
    note = "JPEG: left out: the color definition (cHRM), which is unusable"
    assert lost(data, ".jpg") == (note,)
    assert "icc_profile" not in pillow_info(rewritten(data, ".jpg"))
    linear = chunk(b"gAMA", struct.pack(">I", 100_000)), chunk(b"cHRM", bytes(32))
    data = png(2, 8, (5, 1), [bytes(range(15))], *linear)
    assert lost(data, ".jpg") == (note,)
    assert "icc_profile" in pillow_info(rewritten(data, ".jpg"))


def test_gray_with_a_profile_of_rgb_becomes_jpeg_xl():
    points = [0.64, 0.33, 1, 0.3, 0.6, 1, 0.15, 0.06, 1]
    profile = imagecodecs.cms_profile(
        "rgb", whitepoint=[0.3127, 0.329, 1], primaries=points, gamma=1.8
    )
    data = encoded(np.full((6, 5), 128, np.uint8), "PNG", icc_profile=profile)
    expected = 255 * (1.055 * ((128 / 255) ** 1.8) ** (1 / 2.4) - 0.055)
    again = read_image(rewritten(data, ".jxl"))
    np.testing.assert_allclose(again.pixels, expected, atol=1)
    assert "converted" in lost(data, ".jxl")[0]
    damaged = encoded(PIXELS, "PNG", icc_profile=bytes(200))
    assert lost(damaged, ".jxl") == ("JXL: the color profile is unusable and left out",)


def test_the_profile_of_a_bmp_is_kept():
    pixels = noise(4, 8, 3)
    plain = encoded(pixels, "BMP")
    start = int.from_bytes(plain[10:14], "little")
    header = struct.pack("<I", 124) + plain[18:54] + bytes(16)
    header = header.ljust(56, b"\0") + b"DEBM" + bytes(48)
    header += struct.pack("<IIII", 4, 124 + len(plain) - start, len(SRGB), 0)
    data = b"BM" + struct.pack("<III", 0, 0, 14 + 124) + header + plain[start:] + SRGB
    decoded = read_image(data)
    np.testing.assert_array_equal(decoded.pixels, pixels)
    assert decoded.metadata.icc_profile == SRGB


def test_metadata_too_long_for_a_jpeg_is_named():
    decoded = read_image(full_jpeg())
    long = decoded.metadata.replace(xmp=bytes(70_000), iptc=bytes(66_000))
    decoded = dataclasses.replace(decoded, metadata=long)
    assert what_is_lost(decoded, ".jpg") == ("JPEG: left out: XMP, IPTC",)
    write_image(decoded, io.BytesIO(), format=".jpg")


def test_resolution_of_a_bmp():
    data = encoded(PIXELS, "BMP", dpi=(300, 200))
    assert isinstance(Image.open(io.BytesIO(data)), BmpImagePlugin.BmpImageFile)
    assert png_chunks(rewritten(data, ".png"))[b"pHYs"] == struct.pack(">IIB", 11811, 7874, 1)


def test_xmp_alone_turns_no_pixels_and_keeps_its_orientation():
    buffer = io.BytesIO()
    Image.new("RGB", (5, 3)).save(buffer, "WEBP", lossless=True, xmp=XMP)
    result = rewritten(buffer.getvalue(), ".webp")
    with Image.open(io.BytesIO(result)) as image:
        assert (image.size, image.info["xmp"]) == ((5, 3), XMP)
