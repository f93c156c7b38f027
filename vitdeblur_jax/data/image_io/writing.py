"""Writes image files."""

import io
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitdeblur_jax.data.image_io.avif import encode_avif
from vitdeblur_jax.data.image_io.color_conversion import (
    can_convert,
    gray_to_srgb,
    to_standard_colors,
)
from vitdeblur_jax.data.image_io.decoded_image import DecodedImage, Metadata, Samples
from vitdeblur_jax.data.image_io.fitting import fitting, is_gray_profile
from vitdeblur_jax.data.image_io.formats import FORMATS, IMAGE_SUFFIXES, require
from vitdeblur_jax.data.image_io.heic import encode_heic
from vitdeblur_jax.data.image_io.jpeg import encode_jpeg
from vitdeblur_jax.data.image_io.jxl import encode_jxl
from vitdeblur_jax.data.image_io.pillow import encode_with_pillow
from vitdeblur_jax.data.image_io.png import encode_png
from vitdeblur_jax.data.image_io.tiff_writing import encode_tiff
from vitdeblur_jax.utils.errors import UserError, one_line
from vitdeblur_jax.utils.files import replaced_when_whole

# In pixels. libavif writes longer sides than it reads.
_LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383, "AVIF": 32_768}
_DEEP = ("PNG", "TIFF", "JXL", "HEIC")
_OPAQUE = ("JPEG", "BMP")
_WITHOUT_GRAY = ("WEBP", "HEIC")
_LOSSY = ("JPEG", "WEBP", "HEIC", "AVIF")


def what_is_lost(image: DecodedImage, suffix: str) -> tuple[str, ...]:
    """Returns one sentence for each part of an image that a format cannot store.

    Args:
        image: The image to write.
        suffix: The file extension.

    Raises:
        UserError: The extension is not supported, or the image is too large for the format.
    """
    kind, is_deep = _kind(suffix), image.pixels.dtype == np.uint16
    height, width = image.pixels.shape[:2]
    if max(height, width) > _LONGEST_SIDE.get(kind, width + height):
        raise UserError(
            f"{kind} supports at most {_LONGEST_SIDE[kind]} pixels per side; this image is "
            f"{width} x {height}"
        )
    metadata, names = fitting(image.metadata, kind, image.is_gray)
    changes_gray = _changes_gray_profile(image, kind, metadata)
    converts = changes_gray or (kind == "JXL" and bool(metadata.icc_profile))
    is_usable = converts and can_convert(metadata.icc_profile)
    losses = {
        "16 bits per channel are reduced to 8": is_deep and kind not in _DEEP,
        "16 bits per channel are reduced to 10": is_deep and kind == "HEIC",
        "transparency is left out": image.alpha is not None and kind in _OPAQUE,
        "gray becomes RGB with the color profile sRGB": is_usable and changes_gray,
        "the color profile is unusable and left out": converts and not is_usable,
        "colors are converted from the color profile to sRGB or Display P3": is_usable
        and not changes_gray,
    }
    told = [loss for loss, is_so in losses.items() if is_so]
    told += [f"left out: {', '.join(names)}"] if names else []
    return tuple(f"{kind}: {loss}" for loss in told)


def write_image(
    image: DecodedImage,
    destination: str | os.PathLike[str] | io.BufferedIOBase,
    format: str | None = None,
    overwrite: bool = True,
    quality: int | None = None,
) -> None:
    """Writes an image file atomically: an existing file is replaced only at the end.

    A JPEG input keeps its quantization tables and subsampling; other inputs get quality 95 without
    chroma subsampling. A lossless WebP input stays lossless; other inputs get quality 95, as HEIC
    and AVIF do. JPEG XL is lossless. A gray image is written as luminance (Rec. 601).
    `what_is_lost` lists what the format cannot store.

    Args:
        image: The image to write.
        destination: A path, or a binary stream.
        format: The file extension, with or without a dot. Default: that of the path. A stream needs
            it.
        overwrite: Whether an existing file may be replaced.
        quality: JPEG, WebP, HEIC or AVIF quality, 1 to 100. Default: as above.

    Raises:
        UserError: The extension is not supported or needs a package that is missing, the image is
            too large for the format, the folder is not writable, or the disk is full.
    """
    is_path = isinstance(destination, str | os.PathLike)
    name = str(destination) if is_path else "standard output"
    if quality is not None:
        check_quality(quality)
    kind = _kind(format or (Path(destination).suffix if is_path else ""))
    try:
        encoded = _encode(image, kind, quality)
        if not is_path:
            destination.write(encoded)
            destination.flush()
    except (UserError, MemoryError):
        raise
    except Exception as error:  # encoders raise almost any error
        raise UserError(f"{name}: cannot be written as {kind} ({one_line(error)})") from error
    if is_path:
        with replaced_when_whole(destination, overwrite) as temporary:
            temporary.write_bytes(encoded)


def check_quality(quality: int) -> None:
    """Raises `UserError` if the quality is not between 1 and 100."""
    if not 1 <= quality <= 100:
        raise UserError(f"the quality is {quality}; it must be from 1 to 100")


def check_can_be_written(path: str | os.PathLike[str]) -> None:
    """Raises `UserError` if no format has the extension of a path, or its package is missing."""
    try:
        _kind(Path(path).suffix)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def is_lossy(suffix: str) -> bool:
    """Returns whether the extension is that of a format with a quality setting."""
    return FORMATS.get(suffix.lower()) in _LOSSY


def _kind(suffix: str) -> str:
    kind = FORMATS.get("." + suffix.lower().removeprefix("."))
    if kind is None:
        endings = ", ".join(IMAGE_SUFFIXES)
        raise UserError(f"cannot write images with the extension {suffix!r}; use one of {endings}")
    require(kind)
    return kind


def _encode(image: DecodedImage, kind: str, quality: int | None) -> bytes:
    metadata, _ = fitting(image.metadata, kind, image.is_gray)
    samples, compression = image.pixels, image.compression
    if image.is_gray and _stores_gray(image, kind):
        samples = _luminance(samples)
    if image.alpha is not None and kind not in _OPAQUE:
        samples = np.dstack((samples, image.alpha))
    if samples.dtype == np.uint16 and kind not in _DEEP:
        samples = _rounded_to_8_bits(samples)
    if _changes_gray_profile(image, kind, metadata):
        samples, metadata = gray_to_srgb(samples, metadata)
    match kind:
        case "TIFF":
            return encode_tiff(samples, metadata, image.is_gray)
        case "PNG":
            return encode_png(samples, metadata)
        case "JPEG":
            return encode_jpeg(samples, metadata, compression, quality)
        case "HEIC":
            return encode_heic(samples, metadata, quality)
        case "AVIF":
            return encode_avif(samples, metadata, quality)
        case "JXL":
            return encode_jxl(*to_standard_colors(samples, metadata, image.is_gray))
    return encode_with_pillow(samples, kind, metadata, compression, quality)


def _stores_gray(image: DecodedImage, kind: str) -> bool:
    return kind not in _WITHOUT_GRAY and not (kind == "AVIF" and image.alpha is not None)


def _luminance(pixels: Samples) -> Samples:
    weights = np.array([299, 587, 114], np.uint32)
    return ((pixels @ weights + 500) // 1000).astype(pixels.dtype)


def _rounded_to_8_bits(samples: NDArray[np.uint16]) -> NDArray[np.uint8]:
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _changes_gray_profile(image: DecodedImage, kind: str, fitted: Metadata) -> bool:
    """Returns whether the format stores the image as RGB, but the color profile is for gray."""
    is_rgb = image.is_gray and not _stores_gray(image, kind)
    return is_rgb and is_gray_profile(fitted.icc_profile)
