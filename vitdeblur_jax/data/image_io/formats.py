"""The file formats that are read and written, and how much memory an image may need."""

import contextlib
import io
import os
import threading
import warnings
from collections.abc import Iterator

from PIL import Image

from vitdeblur_jax.utils.errors import UserError

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF"}
FORMATS |= {".webp": "WEBP", ".bmp": "BMP", ".jfif": "JPEG", ".jpe": "JPEG"}
IMAGE_SUFFIXES = tuple(FORMATS)

# The only decoders of Pillow that may see a file. Others start programs (EPS: Ghostscript), fetch
# files or guess at files without a signature.
PILLOW_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PPM", "WEBP")

MEMORY_LIMIT = 2**31  # bytes that reading one image may take

_PILLOW_LOCK = threading.Lock()


@contextlib.contextmanager
def open_with_pillow(source: str | os.PathLike[str] | bytes) -> Iterator[Image.Image]:
    """Open an image by its signature, in one of `PILLOW_FORMATS`, without Pillow's warnings.

    Pillow's own limit of pixels is off: callers check the size with `check_memory` before they
    decode. The limit and Python's warning filters are global, so one thread at a time is here.
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


def check_memory(width: int, height: int, bytes_per_pixel: int) -> None:
    """Refuse an image whose decoding takes more than `MEMORY_LIMIT` bytes.

    Args:
        width: Of the image, pixels.
        height: Of the image, pixels.
        bytes_per_pixel: What decoding needs at its peak, the result included.

    Raises:
        UserError: It takes more.
    """
    needed = width * height * bytes_per_pixel
    if needed > MEMORY_LIMIT:
        raise UserError(
            f"{width} x {height} pixels take {needed / 2**30:.1f} GiB to decode; the limit against "
            f"decompression bombs is {MEMORY_LIMIT / 2**30:g} GiB"
        )


def decoding_bytes(channels: int, depth: int, *, copies: int = 0) -> int:
    """Return the bytes per pixel that decoding and splitting samples take at their peak.

    The decoded samples are alive while they become three channels and, where there is one, alpha.
    RGB without alpha is used as it is.

    Args:
        channels: 1 (gray), 2 (gray, alpha), 3 or 4 (RGB, alpha).
        depth: Bytes per sample: 1 or 2.
        copies: Further arrays as large as the decoded samples that the decoder holds.
    """
    result = 0 if channels == 3 else 3 + (channels in (2, 4))
    return depth * (channels * (1 + copies) + result)
