"""The supported file formats, and the memory limit for one image."""

import contextlib
import importlib.util
import io
import os
import threading
import warnings
from collections.abc import Iterator

from PIL import Image

from vitdeblur_jax.utils.errors import UserError

# The formats that are read and written, by extension.
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF"}
FORMATS |= {".webp": "WEBP", ".bmp": "BMP", ".jfif": "JPEG", ".jpe": "JPEG"}
FORMATS |= {".heic": "HEIC", ".heif": "HEIC", ".hif": "HEIC", ".avif": "AVIF", ".jxl": "JXL"}
IMAGE_SUFFIXES = tuple(FORMATS)
RAW_SUFFIXES = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef")

# Fuji's RAF, Olympus's ORF, Panasonic's RW2. DNG, NEF, ARW and PEF look like TIFF.
RAF = b"FUJIFILMCCD-RAW "
RAW_SIGNATURES = (RAF, b"IIRO", b"IIRS", b"MMOR", b"IIU\0")

# The allowed Pillow decoders. Others start programs (EPS: Ghostscript), fetch files, or guess the
# format of files without a signature. Before it tries AVIF or WebP, Pillow imports all its plugins.
PILLOW_FORMATS = ("BMP", "GIF", "JPEG", "PPM", "AVIF", "WEBP")

# The modules that decode a format, and how to get them.
_CODECS = {
    "HEIC": (("pillow_heif",), "pillow-heif: pip install 'vitdeblur_jax[heic]'"),
    "RAW": (("rawpy",), "rawpy: pip install 'vitdeblur_jax[raw]'"),
    "AVIF": (
        ("PIL._avif", "imagecodecs._avif"),
        "Pillow and imagecodecs with AVIF: pip install --upgrade pillow imagecodecs",
    ),
    "JXL": (
        ("imagecodecs._jpegxl",),
        "imagecodecs with JPEG XL: pip install --upgrade imagecodecs",
    ),
}

MEMORY_LIMIT = 2**31  # bytes for reading one image

_PILLOW_LOCK = threading.Lock()


@contextlib.contextmanager
def open_with_pillow(source: str | os.PathLike[str] | bytes) -> Iterator[Image.Image]:
    """Opens an image in one of `PILLOW_FORMATS` without Pillow's warnings.

    The format is detected by the signature. Pillow's own pixel limit is off; callers check the
    size with `check_memory` before they decode. The limit and Python's warning filters are global,
    so a lock admits one thread at a time.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    with _PILLOW_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            with Image.open(file, formats=PILLOW_FORMATS) as image:
                yield image
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def is_available(kind: str) -> bool:
    """Returns whether the codecs of a format are installed."""
    modules, _ = _CODECS.get(kind, ((), ""))
    return all(importlib.util.find_spec(module) for module in modules)


def require(kind: str) -> None:
    """Raises `UserError` with the command to install the codecs of a format if one is missing."""
    if not is_available(kind):
        raise UserError(needs(kind))


def needs(kind: str) -> str:
    """Returns a sentence that says which packages a format needs."""
    return f"{kind} files need {_CODECS[kind][1]}"


def check_memory(width: int, height: int, bytes_per_pixel: int) -> None:
    """Checks that decoding an image takes at most `MEMORY_LIMIT` bytes.

    Args:
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        bytes_per_pixel: Peak memory of the decoder, including the result.

    Raises:
        UserError: The image takes more memory.
    """
    needed = width * height * bytes_per_pixel
    if needed > MEMORY_LIMIT:
        raise UserError(
            f"{width} x {height} pixels take {needed / 2**30:.1f} GiB to decode; the limit against "
            f"decompression bombs is {MEMORY_LIMIT / 2**30:g} GiB"
        )


def decoding_bytes(channels: int, depth: int, *, copies: int = 0) -> int:
    """Returns the peak memory, in bytes per pixel, of decoding samples and splitting off alpha.

    The decoded samples stay in memory while they are copied to three channels and alpha. RGB
    without alpha needs no copy.

    Args:
        channels: 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha).
        depth: Bytes per sample, 1 or 2.
        copies: Additional arrays of the size of the decoded samples that the decoder allocates.
    """
    result = 0 if channels == 3 else 3 + (channels in (2, 4))
    return depth * (channels * (1 + copies) + result)
