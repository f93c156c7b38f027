"""Which decoders may see a file, and how much memory one image may take."""

import os
import struct
import subprocess
import sys
import tracemalloc
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from tests.data.image_io.made_up_files import chunk, encoded, noise, png, tiff
from vitdeblur_jax.data.image_io import read_image, size_of
from vitdeblur_jax.data.image_io.decoder_output import unpremultiply
from vitdeblur_jax.data.image_io.formats import MEMORY_LIMIT, check_memory, decoding_bytes
from vitdeblur_jax.utils.errors import UserError

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n"


def forbidden() -> list[bytes]:
    """Files in formats that Pillow reads by other programs, or without need."""
    pixels = noise(6, 5, 3)
    return [EPS, *(encoded(pixels, kind) for kind in ("PCX", "SGI", "ICO", "IM", "TGA", "PDF"))]


@pytest.mark.parametrize("data", forbidden())
def test_no_other_decoder_of_pillow_sees_a_file(tmp_path, monkeypatch, data):
    def fail(*args, **kwargs):
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", fail)
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    with pytest.raises(UserError, match="not an image"):
        read_image(path)
    assert size_of(path) is None


def test_every_open_of_the_package_names_its_formats(monkeypatch, tmp_path):
    asked = []
    real = Image.open

    def watched(*args, formats=None, **kwargs):
        asked.append(formats)
        return real(*args, formats=formats, **kwargs)

    monkeypatch.setattr(Image, "open", watched)
    for kind in ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF"):
        path = tmp_path / "photo"
        path.write_bytes(encoded(noise(6, 5, 3), kind))
        assert size_of(path) == (5, 6)
        read_image(path)
    assert len(asked) >= 8
    assert all(formats and "EPS" not in formats for formats in asked)


def test_the_size_of_a_png_with_a_text_bomb(tmp_path):
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**26)))
    path = tmp_path / "bomb.png"
    path.write_bytes(png(2, 8, (5, 1), [bytes(15)], *[bomb] * 3))
    assert size_of(path) == (5, 1)
    tracemalloc.start()
    pixels = read_image(path).pixels
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    assert pixels.shape == (1, 5, 3)


def bomb(kind: str, side: int) -> bytes:
    """Makes a file that claims to hold a square of this side."""
    head = struct.pack(">II", side, side)
    start = b"\x89PNG\r\n\x1a\n"
    match kind:
        case "palette with transparency":
            palette = chunk(b"PLTE", bytes(6)) + chunk(b"tRNS", b"\0")
            return start + chunk(b"IHDR", head + b"\x08\3\0\0\0") + palette + chunk(b"IEND", b"")
        case "RGBA of 16 bits":
            return start + chunk(b"IHDR", head + b"\x10\6\0\0\0") + chunk(b"IEND", b"")
        case "progressive JPEG":
            data = encoded(noise(6, 5, 3), "JPEG", progressive=True)
            at = data.index(b"\xff\xc2") + 5
            return data[:at] + struct.pack(">HH", side, side) + data[at + 4 :]
        case "RGB TIFF of 16 bits":
            data = tiff(noise(6, 5, 3, dtype=np.uint16), photometric="rgb", compression="zlib")
        case "RGBA TIFF of 16 bits":
            data = tiff(noise(6, 5, 4, dtype=np.uint16), photometric="rgb", extrasamples=[1])
    for tag, old in ((256, 5), (257, 6)):
        entry = struct.pack("<HHII", tag, 4, 1, side)
        assert struct.pack("<HHII", tag, 4, 1, old) in data
        data = data.replace(struct.pack("<HHII", tag, 4, 1, old), entry)
    return data


@pytest.mark.parametrize(
    ("kind", "side"),
    [
        ("palette with transparency", 17_000),
        ("RGBA of 16 bits", 12_000),
        ("progressive JPEG", 16_384),
        ("RGB TIFF of 16 bits", 16_384),
        ("RGBA TIFF of 16 bits", 12_000),
    ],
)
def test_the_limit_counts_bytes_not_pixels(kind, side):
    with pytest.raises(UserError, match=r"GiB to decode; the limit .* is 2 GiB"):
        read_image(bomb(kind, side))


def test_arithmetic_of_the_limit():
    assert decoding_bytes(3, 1) == 3  # RGB is used as it is decoded
    assert decoding_bytes(1, 1) == 1 + 3
    assert decoding_bytes(2, 1) == 2 + 3 + 1
    assert decoding_bytes(4, 2) == 2 * (4 + 3 + 1)
    assert decoding_bytes(3, 2, copies=1) == 2 * (3 + 3)
    side = 2**15
    check_memory(side, side, MEMORY_LIMIT // side**2)
    with pytest.raises(UserError, match=r"32768 x 32768 pixels take 3\.0 GiB"):
        check_memory(side, side, MEMORY_LIMIT // side**2 + 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_dividing_by_alpha_takes_little_memory(dtype):
    samples = noise(2000, 1000, 4, dtype=dtype)
    tracemalloc.start()
    unpremultiply(samples)
    assert tracemalloc.get_traced_memory()[1] < 2**25
    tracemalloc.stop()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_dividing_by_alpha_is_exact(dtype):
    samples = noise(300, 1200, 4, dtype=dtype)
    samples[:4, :, 3] = 0
    alpha, highest = samples[..., 3:].astype(np.float64), np.iinfo(dtype).max
    expected = np.rint(np.clip(samples[..., :3] / np.maximum(alpha, 1), 0, 1) * highest)
    unpremultiply(samples)
    np.testing.assert_array_equal(samples[..., :3], expected)


CHANNELS = {
    "gray.png": 1,
    "rgb.png": 3,
    "rgba16.png": 4,
    "rgb.jpg": 3,
    "progressive.jpg": 3,
    "rgb16.tif": 3,
    "rgba16.tif": 4,
    "planes.tif": 3,
    "palette.tif": 1,
    "rgba.webp": 4,
    "palette.gif": 1,
    "rgb.avif": 3,
    "rgba16.avif": 4,
    "rgb.jxl": 3,
    "rgba16.jxl": 4,
}
PROGRAM = """
import sys
import vitdeblur_jax.data.image_io as image_io
from vitdeblur_jax.data.image_io import avif, formats, jpeg, jxl, pillow, png, tiff
image_io.read_image(sys.argv[2])
allowed = []
def watch(width, height, per_pixel):
    allowed.append(width * height * per_pixel)
for module in (avif, jpeg, jxl, pillow, png, tiff):
    module.check_memory = watch
def peak():
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))
before = peak()
image_io.read_image(sys.argv[1])
print(peak() - before, allowed[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", CHANNELS)
def test_memory_stays_below_what_is_counted(tmp_path, name):
    small, large = (tmp_path / f"{size}-{name}" for size in ("small", "large"))
    for path, side in ((small, 8), (large, 2500)):
        samples = noise(side, side, CHANNELS[name], dtype=np.uint16 if "16" in name else np.uint8)
        path.write_bytes(file_of(np.sort(samples // 64 * 64, axis=0), name))
    command = [sys.executable, "-c", PROGRAM, str(large), str(small)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    used, allowed = map(int, done.stdout.split())
    assert allowed / 5 < used < allowed + 1.5 * large.stat().st_size + 2**22


def file_of(samples: np.ndarray, name: str) -> bytes:
    stem, suffix = name.split(".")
    if suffix == "jxl":
        return imagecodecs.jpegxl_encode(samples, lossless=stem == "rgba16", effort=1)
    if suffix == "avif":
        options = {"bitspersample": 12} if stem == "rgba16" else {}
        stored = samples >> 4 if stem == "rgba16" else samples
        return imagecodecs.avif_encode(stored, level=60, speed=10, **options)
    if name in ("planes.tif", "rgb16.tif", "rgba16.tif"):
        extra = {"extrasamples": [1]} if samples.shape[-1] == 4 else {}
        if stem == "planes":
            samples, extra = np.moveaxis(samples, -1, 0), {"planarconfig": "separate"}
        return tiff(samples, photometric="rgb", compression="zlib", **extra)
    if stem == "rgba16":
        rows = [row.astype(">u2").tobytes() for row in samples]
        return png(6, 16, samples.shape[:2], rows)
    image = Image.fromarray(samples.squeeze())
    if stem == "palette":
        image = image.convert("P")
    kind = {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper())
    return encoded(image, kind, **({"progressive": True} if stem == "progressive" else {}))


def test_a_tile_larger_than_the_limit_is_refused(monkeypatch):
    """The image is small; what its only tile decodes to is not."""
    data = tiff(np.zeros((2048, 2048), np.uint8), tile=(2048, 2048), compression="zlib")
    for tag in (256, 257):
        old = struct.pack("<HHII", tag, 4, 1, 2048)
        assert data.count(old) == 1
        data = data.replace(old, struct.pack("<HHII", tag, 4, 1, 32))
    monkeypatch.setattr("vitdeblur_jax.data.image_io.formats.MEMORY_LIMIT", 10**6)
    with pytest.raises(UserError, match=r"2048 x 2048 pixels take .* GiB to decode"):
        read_image(data)


def test_a_volume_is_refused():
    data = tiff(np.zeros((3, 16, 16), np.uint8), volumetric=True, photometric="minisblack")
    with pytest.raises(UserError, match="contains a volume"):
        read_image(data)


def test_only_the_first_color_profile_of_a_png_is_expanded(monkeypatch):
    expanded = []
    decompress = zlib.decompressobj

    def counted():
        expanded.append(1)
        return decompress()

    monkeypatch.setattr("vitdeblur_jax.data.image_io.png.zlib.decompressobj", counted)
    profiles = [chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(50)))] * 9
    read_image(png(2, 8, (1, 1), [bytes(3)], *profiles))
    assert len(expanded) == 1


def test_a_pipe_named_as_an_image_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UserError, match="not a regular file"):
        read_image(tmp_path / "a.png")
    assert size_of(tmp_path / "a.png") is None
