"""JPEG XL: imagecodecs decodes the pixels; this module reads the header and the metadata."""

import struct

import imagecodecs
import numpy as np

from vitdeblur_jax.data.image_io.boxes import boxes
from vitdeblur_jax.data.image_io.color_codes import SRGB, codes, color_chunk
from vitdeblur_jax.data.image_io.decoded_image import Metadata, Samples
from vitdeblur_jax.data.image_io.decoder_output import (
    DecoderOutput,
    full_range,
    read_exif,
    unpremultiply,
)
from vitdeblur_jax.data.image_io.formats import (
    check_memory,
    decoding_bytes,
    open_with_pillow,
    require,
)
from vitdeblur_jax.data.image_io.jxl_header import (
    CODESTREAM,
    Colors,
    Header,
    read_header,
    with_codes,
)
from vitdeblur_jax.data.srgb import linear_to_srgb
from vitdeblur_jax.utils.errors import UserError

_CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
SIGNATURES = (CODESTREAM, _CONTAINER)

_FLOAT = 4  # bytes of a sample in libjxl's planes
_MOST_EXPANDED = 2**24  # bytes of compressed EXIF or XMP
_ALPHA, _BLACK = 0, 4
_GAMMAS, _HDR = {8: 1.0, 17: 1 / 2.6}, (16, 18)  # by the code of the transfer function
_UNFIT = "{}; save it as gray or RGB with 8 or 16 bits a channel"


def decode_jxl(data: bytes) -> DecoderOutput:
    """Decodes the first frame of a JPEG XL file. libjxl applies the orientation.

    Raises:
        UserError: The image exceeds the memory limit, or its samples are not supported.
        RuntimeError: The file is damaged.
    """
    require("JXL")
    header = _header(data)
    check_memory(header.width, header.height, _bytes_per_pixel(header))
    if header.is_float or header.depth > 16:
        kind = "floating-point" if header.is_float else "unsigned"
        raise UserError(_UNFIT.format(f"{header.depth}-bit {kind} samples"))
    if _BLACK in header.extra:
        raise UserError(_UNFIT.format("CMYK colors"))
    notes = ("animation: only the first frame is used",) if header.is_animated else ()
    if set(header.extra) - {_ALPHA}:
        notes += ("a channel of unknown meaning is left out",)
    found = _metadata_boxes(data)
    # The pixels are upright already, and EXIF may still have the orientation.
    _, exif, exif_notes = read_exif(_exif(found.get(b"Exif")))
    samples = _samples(data, header)
    samples, icc_profile, color, color_notes = _colored(samples, header, data)
    metadata = Metadata(icc_profile=icc_profile, png_color=color, exif=exif, xmp=found.get(b"xml "))
    metadata = metadata.upright(header.orientation)
    return DecoderOutput(samples, 1, metadata, notes=(*notes, *exif_notes, *color_notes))


def _bytes_per_pixel(header: Header) -> int:
    channels = (1 if header.colors.is_gray else 3) + (_ALPHA in header.extra)
    planes = _FLOAT * (3 + len(header.extra))  # a gray image is decoded as three
    return planes + decoding_bytes(channels, 1 + (header.depth > 8), copies=1)


def jxl_size(head: bytes) -> tuple[int, int]:
    """Returns the width and height of the upright image from the start of a file."""
    header = _header(head)
    size = header.width, header.height
    return size[::-1] if header.orientation > 4 else size


def _header(data: bytes) -> Header:
    return read_header(_codestream(data))


def _codestream(data: bytes) -> bytes:
    """Returns the start of the codestream."""
    if data.startswith(CODESTREAM):
        return data[:1024]
    at = len(_CONTAINER)
    while at + 8 <= len(data):  # unlike `boxes`, this accepts a box that is cut short
        size, head = int.from_bytes(data[at : at + 4], "big"), 8
        kind = data[at + 4 : at + 8]
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        if kind in (b"jxlc", b"jxlp"):
            start = at + head + 4 * (kind == b"jxlp")  # the number of the part
            if data[start : start + 2] != CODESTREAM:
                break
            return data[start : start + 1024]
        if size < head:
            break
        at += size
    raise UserError("the JPEG XL header is damaged")


def _metadata_boxes(data: bytes) -> dict[bytes, bytes | None]:
    """Returns the content of the first box of EXIF and of XMP, by type; None if it is damaged."""
    found = {}
    for kind, start, end in () if data.startswith(CODESTREAM) else boxes(data):
        if is_compressed := kind == b"brob":
            kind, start = data[start : start + 4], start + 4
        # Expand only the first one: each may grow to many times its size.
        if kind in (b"Exif", b"xml ") and kind not in found:
            content = data[start:end]
            found[kind] = _expanded(content) if is_compressed else content or None
    return found


def _expanded(compressed: bytes) -> bytes | None:
    try:
        return bytes(imagecodecs.brotli_decode(compressed, out=_MOST_EXPANDED))
    except (RuntimeError, ValueError):
        return None


def _exif(content: bytes | None) -> bytes | None:
    """Returns the TIFF stream of an Exif box, which starts with its offset."""
    if not content or len(content) < 4:
        return None
    return content[4 + int.from_bytes(content[:4], "big") :]


def _samples(data: bytes, header: Header) -> Samples:
    samples = imagecodecs.jpegxl_decode(data, index=0)
    has_alpha, is_gray = _ALPHA in header.extra, header.colors.is_gray
    if is_gray and header.extra and not has_alpha:
        samples = samples[0]  # planes
    samples = np.atleast_3d(samples)
    if header.depth not in (8, 16):
        if header.depth < 8:
            samples = full_range(samples, header.depth) >> 8
            samples = samples.astype(np.uint8)
        else:
            samples = full_range(samples, header.depth)
    if has_alpha and header.is_premultiplied:
        unpremultiply(samples)
    return samples


def _colored(
    samples: Samples, header: Header, data: bytes
) -> tuple[Samples, bytes | None, dict[bytes, bytes], tuple[str, ...]]:
    """Returns samples, their ICC profile or color chunks, and notes."""
    if not header.colors.has_icc:
        color = _color_chunks(header.colors)
        is_flattened = header.colors.transfer in _HDR and b"cICP" not in color
        notes = ("HDR with unusual primaries is read as SDR",) if is_flattened else ()
        return samples, None, color, notes
    if header.is_xyb:  # libjxl cannot convert to the profile and returns linear sRGB
        note = "colors converted from the file's own profile to sRGB"
        return _srgb_from_linear(samples, header), None, {}, (note,)
    icc_profile = _profile_of_jpeg(data)
    notes = () if icc_profile else ("the color profile cannot be read; colors may be off",)
    return samples, icc_profile, {}, notes


def _color_chunks(colors: Colors) -> dict[bytes, bytes]:
    is_standard = (colors.primaries, colors.white) in ((1, 1), (9, 1), (11, 1), (11, 11))
    if not colors.gamma and is_standard:
        primaries = 12 if (colors.primaries, colors.white) == (11, 1) else colors.primaries
        return color_chunk(primaries, colors.transfer)
    gamma = colors.gamma or _GAMMAS.get(colors.transfer, 1 / 2.2)
    points = [round(1e5 * value) for value in colors.points]
    return {
        b"gAMA": struct.pack(">I", round(1e5 * gamma)),
        b"cHRM": struct.pack(">8I", *points),
    }


def _srgb_from_linear(samples: Samples, header: Header) -> np.ndarray:
    highest = np.iinfo(samples.dtype).max
    curve = linear_to_srgb(np.arange(highest + 1) / highest)
    table = np.rint(curve * highest).astype(samples.dtype)
    colors = 1 if header.colors.is_gray else 3
    return np.dstack((table[samples[..., :colors]], samples[..., colors:]))


def _profile_of_jpeg(data: bytes) -> bytes | None:
    """Returns the color profile of a file that is a losslessly recompressed JPEG."""
    try:
        jpeg = imagecodecs.jpegxl_decode_jpeg(data)
        with open_with_pillow(bytes(jpeg)) as image:
            return image.info.get("icc_profile") or None
    except Exception:  # most files are no JPEG
        return None


def encode_jxl(samples: Samples, metadata: Metadata) -> bytes:
    """Encodes samples, H x W (gray) or H x W x 2 to 4, and metadata as a lossless JPEG XL file.

    Args:
        samples: uint8 or uint16. Their colors are those of the cICP chunk, or sRGB.
        metadata: Metadata that JPEG XL supports, from `fitting.fitting`.
    """
    encoded = bytes(
        imagecodecs.jpegxl_encode(np.ascontiguousarray(samples), lossless=True, usecontainer=True)
    )
    added = _box(b"Exif", bytes(4) + metadata.exif) if metadata.exif else b""
    added += _box(b"xml ", metadata.xmp) if metadata.xmp else b""
    written = []
    if all(kind != b"jxlc" for kind, _, _ in boxes(encoded)):
        raise RuntimeError("the JPEG XL encoder wrote an unexpected container")
    for kind, start, end in boxes(encoded):
        content = encoded[start:end]
        if kind == b"jxlc":
            content = with_codes(content, *(codes(metadata.png_color) or SRGB))
            written.append(added)
        written.append(_box(kind, content))
    return b"".join(written)


def _box(kind: bytes, content: bytes) -> bytes:
    if len(content) + 8 < 2**32:
        return struct.pack(">I", len(content) + 8) + kind + content
    return struct.pack(">I4sQ", 1, kind, len(content) + 16) + content
