"""The reader of images, against Pillow, tifffile and hand-made bytes."""

import io
import os
import struct
import subprocess
import sys
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from tests.data.image_io.made_up_files import (
    chunk,
    encoded,
    exif_block,
    kinds_of_images,
    loaded,
    noise,
    png,
    tiff,
)
from vitdeblur_jax.data.image_io import read_image, read_rgb, write_image
from vitdeblur_jax.utils.errors import UserError


def refusal(source: object) -> str:
    with pytest.raises(UserError) as caught:
        read_image(source, name="holiday.png" if isinstance(source, bytes) else None)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "BMP", "GIF", "JPEG", "PPM"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_eight_bits_agree_with_pillow(kind, mode):
    image = Image.fromarray(noise(6, 5, 4)).convert(mode)
    try:
        data = encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    except OSError:
        pytest.skip("the format has no such mode")
    decoded = read_image(data)
    with Image.open(io.BytesIO(data)) as oracle:
        has_alpha, stored = oracle.has_transparency_data, oracle.mode
        expected = np.asarray(oracle.convert("RGBA"))
    np.testing.assert_array_equal(decoded.pixels, expected[..., :3])
    assert decoded.pixels.dtype == np.uint8
    assert decoded.is_gray == (stored in ("1", "L", "LA"))
    assert (decoded.alpha is not None) == has_alpha
    if has_alpha:
        np.testing.assert_array_equal(decoded.alpha, expected[..., 3])
    assert decoded.notes == (("palette expanded to RGB",) if stored == "P" else ())


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_sixteen_bits_keep_all_bits(channels, byteorder):
    samples = noise(6, 5, channels, dtype=np.uint16)
    has_alpha, is_gray = channels in (2, 4), channels < 3
    options = {"photometric": "minisblack" if is_gray else "rgb", "byteorder": byteorder}
    if has_alpha:
        options["extrasamples"] = ["unassalpha"]
    rows = [row.astype(">u2").tobytes() for row in samples]
    files = [png((0, 4, 2, 6)[channels - 1], 16, (5, 6), rows)]
    for compression in (None, "lzw"):
        layout = options | {"compression": compression, "rowsperstrip": 2}
        if channels == 1:
            files.append(tiff(samples[..., 0], **layout))
        else:
            files.append(tiff(samples, planarconfig="contig", **layout))
            files.append(tiff(np.moveaxis(samples, -1, 0), planarconfig="separate", **layout))
    for data in files:
        decoded = read_image(data)
        assert decoded.pixels.dtype == np.uint16
        assert decoded.is_gray == is_gray
        colours = samples[..., :-1] if has_alpha else samples
        np.testing.assert_array_equal(decoded.pixels, np.broadcast_to(colours, (6, 5, 3)))
        assert (decoded.alpha is not None) == has_alpha
        if has_alpha:
            np.testing.assert_array_equal(decoded.alpha, samples[..., -1])
        assert decoded.notes == ()


def test_transparent_colour_of_png():
    deep = png(
        *(2, 16, (2, 1)),
        [struct.pack(">6H", 500, 1000, 3, 1, 2, 3)],
        chunk(b"tRNS", struct.pack(">3H", 1, 2, 3)),
    )
    decoded = read_image(deep)
    assert decoded.pixels.tolist() == [[[500, 1000, 3], [1, 2, 3]]]
    assert decoded.alpha.tolist() == [[65535, 0]]
    coarse = png(0, 4, (4, 1), [b"\x03\xf3"], chunk(b"tRNS", struct.pack(">H", 3)))
    decoded = read_image(coarse)
    assert decoded.is_gray
    assert decoded.pixels[0, :, 0].tolist() == [0, 51, 255, 51]
    assert decoded.alpha.tolist() == [[255, 0, 255, 0]]
    palette = chunk(b"PLTE", bytes(range(12))) + chunk(b"tRNS", b"\x10\xff")
    decoded = read_image(png(3, 2, (4, 1), [b"\x1b"], palette))
    assert decoded.pixels.reshape(-1).tolist() == list(range(12))
    assert decoded.alpha.tolist() == [[16, 255, 255, 255]]
    assert not decoded.is_gray


def test_sixteen_bit_tiff_variants():
    white_is_zero = tiff(np.array([[0, 1000, 65535]], np.uint16), photometric="miniswhite")
    assert read_image(white_is_zero).pixels[0, :, 0].tolist() == [65535, 64535, 0]
    premultiplied = np.array([[[100, 200, 30000, 30000], [0, 0, 0, 0]]], np.uint16)
    decoded = read_image(tiff(premultiplied, photometric="rgb", extrasamples=["assocalpha"]))
    assert decoded.pixels.tolist() == [[[218, 437, 65535], [0, 0, 0]]]
    assert decoded.alpha.tolist() == [[30000, 0]]
    for dtype in (np.uint8, np.uint16):
        samples = noise(4, 5, 4, dtype=dtype)
        data = tiff(samples, photometric="rgb", extrasamples=["unspecified"])
        decoded = read_image(data)
        np.testing.assert_array_equal(decoded.pixels, samples[..., :3])
        assert decoded.alpha is None
        assert decoded.notes == ("a channel of unknown meaning is left out",)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_and_reset(orientation):
    pixels = noise(6, 5, 4)
    exif = exif_block(orientation)
    expected = ImageOps.exif_transpose(
        Image.open(io.BytesIO(encoded(pixels, "PNG", exif=exif.tobytes())))
    )
    expected = np.asarray(expected)
    deep = imagecodecs.png_encode(pixels.astype(np.uint16) * 257)
    deep = deep[:33] + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + deep[33:]
    late = encoded(pixels, "PNG")
    late = late[:-12] + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + late[-12:]
    deep_tiff = {"extratags": [(274, "H", 1, orientation, True)], "extrasamples": ["unassalpha"]}
    for data in (
        encoded(pixels, "PNG", exif=exif.tobytes()),
        encoded(pixels, "WEBP", exif=exif.tobytes(), lossless=True, exact=True),
        encoded(pixels, "TIFF", tiffinfo={274: orientation}),
        encoded(pixels, "TIFF", tiffinfo={274: orientation}, compression="tiff_lzw"),
        deep,
        late,
        tiff(pixels.astype(np.uint16) * 257, photometric="rgb", **deep_tiff),
    ):
        decoded = read_image(data)
        factor = 257 if decoded.pixels.dtype == np.uint16 else 1
        np.testing.assert_array_equal(decoded.pixels // factor, expected[..., :3])
        np.testing.assert_array_equal(decoded.alpha // factor, expected[..., 3])
        assert decoded.metadata.exif is None or loaded(decoded.metadata.exif).get(274, 1) == 1
    assert loaded(read_image(deep).metadata.exif)[271] == "Maker"
    jpeg = encoded(pixels[..., :3], "JPEG", exif=exif.tobytes())
    with Image.open(io.BytesIO(jpeg)) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    decoded = read_image(jpeg)
    np.testing.assert_array_equal(decoded.pixels, upright)
    assert loaded(decoded.metadata.exif).get_ifd(0x8769)[36867] == "2020:01:02 03:04:05"


def test_damaged_exif_is_left_out():
    for kind in ("PNG", "JPEG"):
        pixels = noise(6, 5, 3)
        decoded = read_image(encoded(pixels, kind, exif=b"Exif\0\0no EXIF at all"))
        assert decoded.pixels.shape == pixels.shape
        assert decoded.metadata.exif is None
    assert read_image(encoded(pixels, "PNG", exif=b"Exif\0\0none")).notes == (
        "EXIF left out: it is damaged",
    )


def test_cmyk_becomes_rgb():
    image = Image.new("CMYK", (4, 3), (0, 255, 255, 0))
    decoded = read_image(encoded(image, "JPEG"))
    assert decoded.notes == ("CMYK converted to RGB without a profile",)
    assert decoded.metadata.icc_profile is None
    np.testing.assert_allclose(decoded.pixels[0, 0], (255, 0, 0), atol=3)
    broken = read_image(encoded(image, "JPEG", icc_profile=b"no profile"))
    assert broken.notes == ("CMYK converted to RGB: its own profile is unusable",)
    assert broken.metadata.icc_profile is None
    tiffs = read_image(encoded(image, "TIFF"))
    assert tiffs.pixels[0, 0].tolist() == [255, 0, 0]


def test_cmyk_goes_through_its_profile(monkeypatch):
    # There is no free CMYK profile at hand, so the conversion itself is watched instead.
    def convert(image, profile, srgb, outputMode):
        assert profile.read() == b"a CMYK profile"
        assert (image.mode, outputMode) == ("CMYK", "RGB")
        assert "sRGB" in ImageCms.getProfileDescription(srgb)
        return Image.new("RGB", image.size, (1, 2, 3))

    monkeypatch.setattr(ImageCms, "profileToProfile", convert)
    image = Image.new("CMYK", (4, 3))
    decoded = read_image(encoded(image, "JPEG", icc_profile=b"a CMYK profile"))
    assert decoded.pixels[2, 3].tolist() == [1, 2, 3]
    assert decoded.notes == ("CMYK converted to RGB by its own profile",)
    kept = ImageCms.ImageCmsProfile(io.BytesIO(decoded.metadata.icc_profile))
    assert "sRGB" in ImageCms.getProfileDescription(kept)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_several(kind):
    frames = [Image.new("RGB", (8, 8), (value, 0, 0)) for value in (255, 128, 0)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    decoded = read_image(data)
    np.testing.assert_array_equal(decoded.pixels[0, 0], (255, 0, 0))
    assert any("only the first of 3" in note for note in decoded.notes)


def test_pages_of_a_sixteen_bit_tiff():
    pages = noise(2, 6, 5, dtype=np.uint16)
    decoded = read_image(tiff(pages, photometric="minisblack"))
    np.testing.assert_array_equal(decoded.pixels[..., 1], pages[0])
    assert decoded.notes == ("only the first of 2 images in the file is used",)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (tiff(np.zeros((4, 5), np.float32)), "32-bit floating-point samples"),
        (tiff(np.zeros((4, 5), np.int16)), "16-bit signed samples"),
        (tiff(np.zeros((4, 5), np.uint32)), "32-bit unsigned samples"),
        (tiff(np.zeros((4, 5, 3), np.uint8), photometric="cielab"), "CIELAB colors"),
        (tiff(np.zeros((4, 5, 4), np.uint16), photometric="separated"), "16-bit SEPARATED"),
        (
            tiff(np.zeros((4, 5, 7), np.uint8), photometric="minisblack", planarconfig="contig"),
            "7 bands",
        ),
        (tiff(np.zeros((4, 5, 3), np.uint8), photometric="rgb", subfiletype=1), "thumbnail"),
        (b"", "empty"),
        (b"just some text", "not an image"),
        (b"\x89PNG\r\n\x1a\n", "not an image"),
        (b"II*\0", "cut short"),
    ],
)
def test_refusals_name_the_file_and_the_cause(data, told):
    message = refusal(data)
    assert message.startswith("holiday.png: ")
    assert told in message


@pytest.mark.parametrize("part", [0.02, 0.3, 0.9, 0.97])
def test_a_file_cut_short_is_refused(part, capfd):
    pixels, deep = noise(40, 50, 3), noise(40, 50, 3, dtype=np.uint16)
    files = [encoded(pixels, kind) for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")]
    files.append(encoded(pixels, "TIFF", compression="tiff_lzw"))
    files += [imagecodecs.png_encode(deep), tiff(deep, photometric="rgb")]
    files.append(tiff(deep, photometric="rgb", compression="zlib", rowsperstrip=4))
    for data in files:
        assert refusal(data[: int(len(data) * part)]).startswith("holiday.png: ")
        read_image(data)
    assert capfd.readouterr().err == ""


def test_a_flipped_byte_in_a_png_is_refused():
    data = bytearray(encoded(noise(40, 50, 3), "PNG"))
    data[len(data) // 2] ^= 255
    assert "damaged" in refusal(bytes(data))


def test_paths_that_cannot_be_read(tmp_path):
    missing = tmp_path / "missing.png"
    assert refusal(missing) == f"{missing}: cannot be read (No such file or directory)"
    assert "Is a directory" in refusal(tmp_path)
    assert "null" in refusal("a\0b.png")
    if os.geteuid() != 0:
        (tmp_path / "secret.png").write_bytes(encoded(noise(4, 5, 3), "PNG"))
        (tmp_path / "secret.png").chmod(0)
        assert "Permission denied" in refusal(tmp_path / "secret.png")
    with pytest.raises(UserError, match="standard input"):
        read_image(b"")
    with pytest.raises(UserError, match=r"missing\.png"):
        read_rgb(missing)


def test_a_bomb_is_refused_and_two_hundred_megapixels_are_not():
    before = Image.MAX_IMAGE_PIXELS
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 1, 0, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    assert "limit against decompression bombs" in refusal(bomb)
    row = b"\0" + bytes(12500)
    packed = zlib.compress(row * 1000)
    assert "more than" not in refusal(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 20000, 10000, 1, 0, 0, 0, 0))
        + chunk(b"IDAT", packed)
    )
    directory = tiff(np.zeros((4, 5), np.uint16)).replace(
        struct.pack("<HHII", 256, 4, 1, 5), struct.pack("<HHII", 256, 4, 1, 2**28)
    )
    assert "limit against decompression bombs" in refusal(directory)
    assert before == Image.MAX_IMAGE_PIXELS


def test_large_tiff_passes_pillows_own_limit(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for kind in ("PNG", "TIFF", "JPEG", "GIF"):
        assert read_image(encoded(noise(8, 9, 3), kind)).pixels.shape == (8, 9, 3)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_decoders_grumble_to_nobody(tmp_path):
    """A gray PNG with a profile of RGB makes imagecodecs log, a cut TIFF makes tifffile log."""
    write_image(kinds_of_images()[6], tmp_path / "gray.png")
    cut = encoded(noise(40, 50, 3), "TIFF", compression="tiff_lzw")[:-9]
    (tmp_path / "cut.tif").write_bytes(cut)
    program = """
import sys
from vitdeblur_jax.data.image_io import read_image
read_image(sys.argv[1])
try:
    read_image(sys.argv[2])
except ValueError as error:
    print(error)
"""
    paths = [str(tmp_path / "gray.png"), str(tmp_path / "cut.tif")]
    command = [sys.executable, "-c", program, *paths]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stderr == ""
    assert result.stdout.startswith(f"{paths[1]}: ")
