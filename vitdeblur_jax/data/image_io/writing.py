"""Photographs into files: the one writer of the whole project.

Pillow encodes most formats. It cannot write 16-bit colour, so imagecodecs encodes such a PNG, and a
TIFF, which is little more than its pixels, is put together here.
"""

import io
import os
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from PIL.ExifTags import Base

from vitdeblur_jax.data.image_io.formats import FORMATS, IMAGE_SUFFIXES
from vitdeblur_jax.data.image_io.photograph import Photograph, Samples
from vitdeblur_jax.data.image_io.reading import UNASSOCIATED
from vitdeblur_jax.errors import UserError, one_line
from vitdeblur_jax.files import replaced_when_whole

_LONGEST_SIDE = {"JPEG": 65_535, "WEBP": 16_383}
_LONGEST_JPEG_EXIF = 65_533
_SAVE_OPTIONS = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"quality": 95}}


def what_is_lost(photograph: Photograph, suffix: str) -> tuple[str, ...]:
    """Say what of a photograph a file with this ending cannot hold, a sentence each.

    Raises:
        UserError: No image is written with this ending, or none as large.
    """
    kind, is_deep = _kind(suffix), photograph.pixels.dtype == np.uint16
    height, width = photograph.pixels.shape[:2]
    if max(height, width) > _LONGEST_SIDE.get(kind, width + height):
        raise UserError(
            f"{kind} holds sides of {_LONGEST_SIDE[kind]} pixels at the most; this photograph is "
            f"{width} x {height}"
        )
    losses = {
        "16 bits a channel become 8": is_deep and kind not in ("PNG", "TIFF"),
        "transparency is left out": photograph.alpha is not None and kind in ("JPEG", "BMP"),
        "the colour profile is left out": photograph.icc_profile is not None and kind == "BMP",
        "EXIF is left out": photograph.exif is not None and not _keeps_exif(photograph.exif, kind),
    }
    return tuple(f"{kind}: {loss}" for loss, is_so in losses.items() if is_so)


def write_photograph(
    photograph: Photograph,
    destination: str | os.PathLike[str] | io.BufferedIOBase,
    format: str | None = None,
    overwrite: bool = True,
) -> None:
    """Write a photograph whole or not at all: a file of the same name is replaced at the end.

    JPEG has quality 95 and colours in full resolution, WebP quality 95. A gray photograph is
    written as its luminance (Rec. 601). `what_is_lost` tells what the file cannot hold.

    Args:
        photograph: What to write.
        destination: A path, or a binary stream.
        format: The ending, with or without its dot; needed for a stream, else that of the path.
        overwrite: Whether a file of that name may be replaced.

    Raises:
        UserError: An unknown ending, a size that the format cannot hold, an unwritable folder, a
            full disk.
    """
    is_path = isinstance(destination, str | os.PathLike)
    name = str(destination) if is_path else "standard output"
    kind = _kind(format or (Path(destination).suffix if is_path else ""))
    try:
        encoded = _encode(photograph, kind)
        if not is_path:
            destination.write(encoded)
            destination.flush()
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{name}: cannot be written as {kind} ({one_line(error)})") from error
    if is_path:
        with replaced_when_whole(destination, overwrite) as temporary:
            temporary.write_bytes(encoded)


def _kind(suffix: str) -> str:
    kind = FORMATS.get("." + suffix.lower().removeprefix("."))
    if kind is None:
        endings = ", ".join(IMAGE_SUFFIXES)
        raise UserError(f"no image is written with the ending {suffix!r}: use one of {endings}")
    return kind


def _encode(photograph: Photograph, kind: str) -> bytes:
    samples = photograph.pixels
    if photograph.is_gray and kind != "WEBP":  # which has no gray
        weights = np.array([299, 587, 114], np.uint32)
        samples = ((samples @ weights + 500) // 1000).astype(samples.dtype)
    if photograph.alpha is not None and kind not in ("JPEG", "BMP"):
        samples = np.dstack((samples, photograph.alpha))
    if kind == "TIFF":
        return _tiff(samples, photograph)
    if samples.dtype == np.uint16 and kind == "PNG":
        return _deep_png(samples, photograph)
    if samples.dtype == np.uint16:
        samples = ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)
    metadata = {"icc_profile": photograph.icc_profile, "exif": photograph.exif}
    if photograph.exif and not _keeps_exif(photograph.exif, kind):
        del metadata["exif"]
    options = {key: value for key, value in metadata.items() if value} | _SAVE_OPTIONS.get(kind, {})
    buffer = io.BytesIO()
    Image.fromarray(samples).save(buffer, kind, **options)
    return buffer.getvalue()


def _keeps_exif(exif: bytes, kind: str) -> bool:
    return kind != "BMP" and not (kind == "JPEG" and len(exif) > _LONGEST_JPEG_EXIF)


def _deep_png(samples: NDArray[np.uint16], photograph: Photograph) -> bytes:
    png, chunks = imagecodecs.png_encode(samples), io.BytesIO()
    if photograph.icc_profile:
        content = b"ICC Profile\0\0" + zlib.compress(photograph.icc_profile)
        PngImagePlugin.putchunk(chunks, b"iCCP", content)
    if photograph.exif:
        PngImagePlugin.putchunk(chunks, b"eXIf", photograph.exif.removeprefix(b"Exif\0\0"))
    return png[:33] + chunks.getvalue() + png[33:]  # behind the signature and the header


def _tiff(samples: Samples, photograph: Photograph) -> bytes:
    """Write EXIF, which is a TIFF without a picture, with the picture as one strip behind it."""
    directory = Image.Exif()
    directory.load(photograph.exif or b"")
    height, width, channels = np.atleast_3d(samples).shape
    directory[Base.ImageWidth], directory[Base.ImageLength] = width, height
    directory[Base.BitsPerSample] = (8 * samples.itemsize,) * channels
    directory[Base.SamplesPerPixel] = channels
    directory[Base.Compression] = 1
    directory[Base.PhotometricInterpretation] = 1 if photograph.is_gray else 2
    directory[Base.RowsPerStrip], directory[Base.StripByteCounts] = height, samples.nbytes
    directory[Base.StripOffsets] = 0  # counted by Pillow from the end of the directory
    if photograph.alpha is not None:
        directory[Base.ExtraSamples] = UNASSOCIATED
    if photograph.icc_profile:
        directory[Base.InterColorProfile] = photograph.icc_profile
    head = directory.tobytes().removeprefix(b"Exif\0\0")
    byte_order = "<" if head.startswith(b"II") else ">"
    return head + samples.astype(samples.dtype.newbyteorder(byte_order)).tobytes()
