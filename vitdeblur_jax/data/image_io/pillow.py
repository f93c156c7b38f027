"""WebP, BMP, GIF, AVIF and PPM by Pillow."""

import io
import struct
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from PIL import Image

from vitdeblur_jax.data.image_io.decoded_image import Compression, Metadata, Resolution, Samples
from vitdeblur_jax.data.image_io.decoder_output import DecoderOutput, frame_notes, read_exif
from vitdeblur_jax.data.image_io.formats import check_memory, open_with_pillow
from vitdeblur_jax.utils.errors import UserError

_BYTES_PER_PIXEL = 22  # two canvases of WebP, Pillow's image, its bytes in pieces and joined
_REFUSED_MODES = {"I": "32-bit samples", "F": "floating-point samples"}
_UNFIT = "{}; save it as gray or RGB with 8 or 16 bits a channel"


def decode_with_pillow(data: bytes) -> DecoderOutput:
    """Decodes a file in one of `formats.PILLOW_FORMATS`.

    Raises:
        UserError: The image exceeds the memory limit, or its sample type is not supported.
        OSError: The file has another format or is damaged.
    """
    with open_with_pillow(data) as image:
        check_memory(*image.size, _BYTES_PER_PIXEL)
        image.load()
        orientation, exif, notes = read_exif(image.info.get("exif"))
        notes += frame_notes(image.format, getattr(image, "n_frames", 1))
        notes += ("palette expanded to RGB",) if image.mode in ("P", "PA") else ()
        metadata = Metadata(
            icc_profile=image.info.get("icc_profile") or _profile_of_bmp(image.format, data),
            exif=exif,
            xmp=image.info.get("xmp") or None,
            comment=_comment(image),
            resolution=_resolution(image),
        )
        compression = Compression(lossless=image.format == "WEBP" and _is_lossless_webp(data))
        return DecoderOutput(_samples(image), orientation, metadata, compression, notes)


def _profile_of_bmp(kind: str | None, data: bytes) -> bytes | None:
    """Returns the color profile in the header of version 5 of a BMP file, which Pillow ignores."""
    if kind != "BMP" or int.from_bytes(data[14:18], "little") < 124 or data[70:74] != b"DEBM":
        return None
    start, size = struct.unpack_from("<II", data, 126)  # from the start of this header
    profile = data[14 + start : 14 + start + size]
    return profile if size and len(profile) == size else None


def encode_with_pillow(
    samples: np.ndarray,
    kind: str,
    metadata: Metadata,
    compression: Compression,
    quality: int | None,
) -> bytes:
    """Encodes samples and metadata as WebP or BMP.

    Args:
        samples: uint8 samples.
        kind: WEBP or BMP.
        metadata: Metadata that the format supports, from `fitting.fitting`.
        compression: The compression of the input. A lossless WebP stays lossless.
        quality: WebP quality, 1 to 100. None keeps a lossless WebP lossless; other inputs get 95.
    """
    options = {}
    if kind == "WEBP":
        is_lossless = compression.lossless and quality is None
        options = {"lossless": True, "exact": True} if is_lossless else {"quality": quality or 95}
        held = {key: getattr(metadata, key) for key in ("icc_profile", "exif", "xmp")}
        options |= {key: value for key, value in held.items() if value}
    elif metadata.resolution and not metadata.resolution.is_ratio:
        options["dpi"] = tuple(float(side) for side in metadata.resolution[:2])
    buffer = io.BytesIO()
    Image.fromarray(samples).save(buffer, kind, **options)
    return buffer.getvalue()


def _samples(image: Image.Image) -> Samples:
    if image.mode.startswith("I;16") or (image.format, image.mode) == ("PPM", "I"):
        return np.atleast_3d(np.asarray(image).astype(np.uint16))
    if image.mode in _REFUSED_MODES:
        raise UserError(_UNFIT.format(_REFUSED_MODES[image.mode]))
    modes = ("L", "LA") if image.mode in ("1", "L", "LA", "La") else ("RGB", "RGBA")
    mode = modes[image.has_transparency_data]
    return np.atleast_3d(np.asarray(image if image.mode == mode else image.convert(mode)))


def _comment(image: Image.Image) -> bytes | None:
    comment = image.info.get("comment")
    return comment.encode() if isinstance(comment, str) else comment or None


def _resolution(image: Image.Image) -> Resolution | None:
    x, y = image.info.get("dpi", (0, 0)) if image.format == "BMP" else (0, 0)
    if x <= 0 or y <= 0:
        return None
    # A BMP counts whole pixels per meter.
    per_meter = (Fraction(round(side / 0.0254)) for side in (x, y))
    return Resolution(*(side * Fraction(254, 10_000) for side in per_meter))


def _is_lossless_webp(data: bytes) -> bool:
    for kind, content in _riff_chunks(data, 12):
        if kind == b"ANMF":  # a frame, whose content is chunks after a header
            kind = next((inner for inner, _ in _riff_chunks(content, 16)), b"")
        if kind in (b"VP8L", b"VP8 "):
            return kind == b"VP8L"
    return False


def _riff_chunks(data: bytes, at: int) -> Iterator[tuple[bytes, bytes]]:
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
