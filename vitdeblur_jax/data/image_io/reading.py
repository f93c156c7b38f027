"""Reads image files."""

import os
from pathlib import Path

import numpy as np
from PIL import UnidentifiedImageError

from vitdeblur_jax.data.image_io import avif, heic, jpeg, jxl, png
from vitdeblur_jax.data.image_io.boxes import kind_of_container
from vitdeblur_jax.data.image_io.decoded_image import DecodedImage, Samples
from vitdeblur_jax.data.image_io.decoder_output import DecoderOutput
from vitdeblur_jax.data.image_io.exif import TIFF_SIGNATURES
from vitdeblur_jax.data.image_io.formats import FORMATS, RAW_SIGNATURES, open_with_pillow
from vitdeblur_jax.data.image_io.pillow import decode_with_pillow
from vitdeblur_jax.utils.buckets import read_start
from vitdeblur_jax.utils.errors import UserError, one_line
from vitdeblur_jax.utils.files import check_regular

_HEAD = 1024  # bytes, enough for the signature and the size of most formats
_SIGNATURES = {
    "TIFF": TIFF_SIGNATURES,
    "PNG": (png.SIGNATURE,),
    "JPEG": (jpeg.SIGNATURE,),
    "JXL": jxl.SIGNATURES,
    "RAW": RAW_SIGNATURES,
}
_DECODERS = {
    "PNG": png.decode_png,
    "JPEG": jpeg.decode_jpeg,
    "JXL": jxl.decode_jxl,
    "AVIF": avif.decode_avif,
    "HEIC": heic.decode_heic,
}


def read_image(
    source: str | os.PathLike[str] | bytes, name: str | None = None, *, accept_damage: bool = False
) -> DecodedImage:
    """Reads an image and applies its orientation. 8 or 16 bits per channel are kept.

    Args:
        source: A path, or the bytes of a file.
        name: The name in error messages. Default: the path, or "standard input".
        accept_damage: Return an image with damaged pixels and a note, if it can be decoded.

    Raises:
        UserError: The file is missing, unreadable, empty, cut short, damaged or not an image;
            decoding takes more than `formats.MEMORY_LIMIT`; or its samples are not 8- or 16-bit
            gray or color.
    """
    name = name or ("standard input" if isinstance(source, bytes) else str(source))
    if not isinstance(source, bytes):
        check_regular(source)
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: cannot be read ({one_line(error)})") from error
    if not data:
        raise UserError(f"{name}: the file is empty")
    try:
        decoded = _decode(data)
        if decoded.damage and not accept_damage:
            raise UserError(f"damaged or cut short ({decoded.damage[0]})")
        return _upright(decoded)
    except Exception as error:  # decoders raise almost any error on damaged files
        raise UserError(f"{name}: {_why_unreadable(error)}") from error


def read_rgb(path: str | os.PathLike[str]) -> Samples:
    """Reads the upright pixels of an image: H x W x 3, uint8 or uint16.

    Raises:
        UserError: See `read_image`.
    """
    return read_image(path).pixels


def size_of(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Returns the width and height from the file header, or None if the header is not enough."""
    try:
        check_regular(path)
        head = read_start(path, _HEAD)
        match _format_of(head):
            case "PNG":
                return png.png_header(head)[:2]
            case "JXL":
                return jxl.jxl_size(head)
            case "HEIC":
                return heic.heic_size(Path(path).read_bytes())
            case "RAW" | "TIFF" as kind:
                from vitdeblur_jax.data.image_io import raw, tiff  # a late import, for tifffile

                with tiff.without_log():
                    is_raw = kind == "RAW" or raw.is_raw_tiff(path)
                    return (raw.raw_size if is_raw else tiff.tiff_size)(path)
        with open_with_pillow(path) as image:
            return image.size
    except Exception:  # decoders raise almost any error on damaged files
        return None


def _format_of(head: bytes) -> str | None:
    """Returns the format by the signature of a file; None if only Pillow can tell."""
    for name, signatures in _SIGNATURES.items():
        if head.startswith(signatures):
            return name
    kind = kind_of_container(head)
    return "RAW" if kind == "CR3" else kind


def _decode(data: bytes) -> DecoderOutput:
    kind = _format_of(data[:_HEAD])
    if kind in ("RAW", "TIFF"):
        from vitdeblur_jax.data.image_io import raw, tiff  # a late import, for tifffile

        with tiff.without_log():
            is_raw = kind == "RAW" or raw.is_raw_tiff(data)
            return (raw.decode_raw if is_raw else tiff.decode_tiff)(data)
    return _DECODERS.get(kind, decode_with_pillow)(data)


def _why_unreadable(error: Exception) -> str:
    match error:
        case UserError():
            return str(error)
        case UnidentifiedImageError():
            formats = ", ".join(dict.fromkeys(FORMATS.values()))
            return f"not an image, or cut short; supported formats are {formats}"
        case MemoryError():
            return "the image does not fit into memory"
        case OSError() | RuntimeError():  # from Pillow and imagecodecs
            return f"damaged or cut short ({one_line(error)})"
    return "damaged or cut short"


def _upright(decoded: DecoderOutput) -> DecodedImage:
    """Applies the orientation and splits the color channels from alpha."""
    samples, orientation, metadata, compression, notes, damage = decoded
    is_turned = orientation in (5, 6, 7, 8)
    samples = samples.swapaxes(0, 1) if is_turned else samples
    samples = samples[:, ::-1] if orientation in (2, 3, 6, 7) else samples
    samples = samples[::-1] if orientation in (3, 4, 7, 8) else samples
    is_gray, has_alpha = samples.shape[-1] <= 2, samples.shape[-1] in (2, 4)
    colors = samples[..., :-1] if has_alpha else samples
    pixels = np.repeat(colors, 3, axis=-1) if is_gray else np.ascontiguousarray(colors)
    alpha = np.ascontiguousarray(samples[..., -1]) if has_alpha else None
    damaged = tuple(f"the file is damaged; the image may be damaged too ({d})" for d in damage)
    metadata = metadata.upright(orientation)
    return DecodedImage(pixels, alpha, is_gray, metadata, compression, (*damaged, *notes))
