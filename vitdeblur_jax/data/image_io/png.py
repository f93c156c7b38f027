"""PNG: imagecodecs decodes 8- and 16-bit pixels; this module reads and writes the other chunks.

Compressed chunks are copied unexpanded or expanded up to a limit.
"""

import binascii
import struct
import zlib
from collections.abc import Iterable, Iterator
from fractions import Fraction

import imagecodecs
import numpy as np

from vitdeblur_jax.data.image_io.decoded_image import Metadata, Resolution, Samples
from vitdeblur_jax.data.image_io.decoder_output import DecoderOutput, frame_notes, read_exif
from vitdeblur_jax.data.image_io.formats import check_memory, decoding_bytes
from vitdeblur_jax.utils.errors import UserError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER_END = 33  # the signature and IHDR
_COLOR_CHUNKS = (b"cICP", b"sRGB", b"gAMA", b"cHRM", b"mDCV", b"cLLI")
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt", b"tIME")
_XMP = b"XML:com.adobe.xmp"
_OLD_EXIF = (b"Raw profile type exif", b"Raw profile type APP1")
_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # by color type
_PALETTE = 3
_MOST_EXPANDED = 2**24  # bytes of a profile or a text
_INCHES_PER_METER = Fraction(10_000, 254)


def decode_png(data: bytes) -> DecoderOutput:
    """Decodes a PNG file.

    Raises:
        UserError: The image exceeds the memory limit, is damaged or cut short.
    """
    width, height, depth, color = png_header(data)
    chunks = list(_chunks(data))
    kinds = dict(chunks)
    channels = _CHANNELS[color] + (b"tRNS" in kinds)
    check_memory(width, height, decoding_bytes(channels, 1 + (depth > 8)))
    samples = np.atleast_3d(imagecodecs.png_decode(data))
    metadata, exif_notes, orientation = _metadata(chunks)
    notes = exif_notes
    if b"acTL" in kinds:
        notes += frame_notes("PNG", int.from_bytes(kinds[b"acTL"][:4], "big"))
    if color == _PALETTE:
        notes += ("palette expanded to RGB",)
    return DecoderOutput(samples, orientation, metadata, notes=notes)


def png_header(data: bytes) -> tuple[int, int, int, int]:
    """Returns the width, height, bits per sample and color type.

    Raises:
        UserError: The header is damaged.
    """
    if len(data) < _HEADER_END or data[12:16] != b"IHDR":
        raise UserError("not an image, or cut short")
    width, height, depth, color = struct.unpack_from(">IIBB", data, 16)
    if color not in _CHANNELS or depth not in (1, 2, 4, 8, 16):
        raise UserError("the PNG header is damaged")
    return width, height, depth, color


def encode_png(samples: Samples, metadata: Metadata) -> bytes:
    """Encodes samples, H x W (gray) or H x W x 2 to 4, and metadata as a PNG file."""
    png = imagecodecs.png_encode(np.ascontiguousarray(samples))
    return png[:_HEADER_END] + b"".join(_written_chunks(metadata)) + png[_HEADER_END:]


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the type and content of each chunk without pixels; stops at the end of the file."""
    view, at = memoryview(data), len(SIGNATURE)
    while at + 12 <= len(data):
        length, kind = int.from_bytes(view[at : at + 4], "big"), bytes(view[at + 4 : at + 8])
        if kind not in (b"IDAT", b"fdAT"):
            yield kind, bytes(view[at + 8 : at + 8 + length])
        at += 12 + length


def _metadata(chunks: Iterable[tuple[bytes, bytes]]) -> tuple[Metadata, tuple[str, ...], int]:
    found, text, exif, others = {}, [], None, []
    for kind, content in chunks:
        keyword, _, rest = content.partition(b"\0")
        if kind == b"iCCP" and "icc_profile" not in found:
            found["icc_profile"] = _expanded(rest[1:])
            others += [] if found["icc_profile"] else ["a damaged color profile"]
        elif kind == b"eXIf":
            exif = content
        elif kind == b"pHYs" and len(content) == 9:
            found["resolution"] = _resolution(content)
        elif kind == b"iTXt" and keyword == _XMP and "xmp" not in found:
            found["xmp"] = _international_text(rest)
        elif kind in (b"tEXt", b"zTXt") and keyword in _OLD_EXIF:
            if exif is None:  # expand only one: each may grow to many times its size
                exif = _hexadecimal(_expanded(rest[1:]) if kind == b"zTXt" else rest) or b""
        elif kind == b"tEXt" and keyword == b"Comment" and "comment" not in found:
            found["comment"] = rest
        elif kind in _TEXT_CHUNKS:
            text.append((kind, content))
    color = {kind: content for kind, content in chunks if kind in _COLOR_CHUNKS}
    orientation, exif, notes = read_exif(exif or None)
    metadata = Metadata(png_color=color, exif=exif, png_text=text, others=others, **found)
    return metadata, notes, orientation


def _expanded(compressed: bytes) -> bytes | None:
    try:
        expander = zlib.decompressobj()
        expanded = expander.decompress(compressed, _MOST_EXPANDED)
        return expanded if expander.eof else None
    except zlib.error:
        return None


def _international_text(content: bytes) -> bytes | None:
    """Returns the text of an iTXt chunk, given the content after the keyword."""
    is_compressed = content[:1] == b"\1"
    text = content[2:].split(b"\0", 2)[-1]  # after the language and the translated keyword
    return _expanded(text) if is_compressed else text


def _hexadecimal(text: bytes | None) -> bytes | None:
    """Returns the bytes that ImageMagick stores as a name, a length and hexadecimal digits."""
    try:
        return binascii.unhexlify(b"".join((text or b"").split()[2:])) or None
    except ValueError:
        return None


def _resolution(content: bytes) -> Resolution | None:
    x, y, unit = struct.unpack(">IIB", content)
    if not x or not y:
        return None
    if unit != 1:
        return Resolution(Fraction(x), Fraction(y), is_ratio=True)
    return Resolution(x / _INCHES_PER_METER, y / _INCHES_PER_METER)


def _written_chunks(metadata: Metadata) -> Iterator[bytes]:
    for kind, content in metadata.png_color.items():
        yield _chunk(kind, content)
    if metadata.icc_profile:
        content = b"ICC Profile\0\0" + zlib.compress(metadata.icc_profile)
        yield _chunk(b"iCCP", content)
    if metadata.resolution:
        yield _chunk(b"pHYs", _physical(metadata.resolution))
    if metadata.exif:
        yield _chunk(b"eXIf", metadata.exif)
    if metadata.xmp:
        yield _chunk(b"iTXt", _XMP + b"\0\0\0\0\0" + metadata.xmp)
    if metadata.comment:
        yield _chunk(b"tEXt", b"Comment\0" + metadata.comment.replace(b"\0", b""))
    for kind, content in metadata.png_text:
        yield _chunk(kind, content)


def _physical(resolution: Resolution) -> bytes:
    factor = 1 if resolution.is_ratio else _INCHES_PER_METER
    x, y = (min(max(round(side * factor), 1), 2**31 - 1) for side in resolution[:2])
    return struct.pack(">IIB", x, y, not resolution.is_ratio)


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum
