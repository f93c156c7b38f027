"""Writes uncompressed TIFF files.

EXIF is itself a TIFF stream. The writer appends the pixels and a new directory to it, so all
offsets in it stay valid.
"""

import struct
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
from PIL.ExifTags import Base

from vitdeblur_jax.data.image_io.decoded_image import Metadata, Samples
from vitdeblur_jax.data.image_io.exif import byte_order, first_directory
from vitdeblur_jax.utils.errors import UserError

_BYTE, _SHORT, _LONG, _RATIONAL, _UNDEFINED = 1, 3, 4, 5, 7
_CODES = {_SHORT: "H", _LONG: "I", _RATIONAL: "I"}
_UNASSOCIATED = 2  # alpha that the colors are not multiplied by
# Tags that describe how the file stores the pixels.
PIXEL_TAGS = {*range(254, 270), *range(273, 282), 284, *range(288, 294), 301, *range(317, 348)}
PIXEL_TAGS |= {512, 513, 514, *range(515, 533)}
_HIGHEST = 2**32 - 1


def encode_tiff(samples: Samples, metadata: Metadata, is_gray: bool) -> bytes:
    """Encodes samples, H x W or H x W x 2 to 4, and metadata as an uncompressed TIFF file.

    Raises:
        UserError: The file would exceed 4 GiB.
    """
    stream = metadata.exif or b"II*\0\0\0\0\0"
    order = byte_order(stream)
    entries = first_directory(stream) if metadata.exif else {}
    entries = {tag: entry for tag, entry in entries.items() if tag not in PIXEL_TAGS}
    body = bytearray(stream + bytes(-len(stream) % 4))
    fields = _pixel_fields(samples, is_gray, len(body))
    fields |= _metadata_fields(metadata, entries)
    body += np.ascontiguousarray(samples, samples.dtype.newbyteorder(order)).data.cast("B")
    for tag, (kind, values) in fields.items():
        entries[tag] = _entry(body, order, tag, kind, values)
    body += bytes(-len(body) % 4)
    if len(body) + 12 * len(entries) > _HIGHEST:
        raise UserError("the image is larger than the 4 GiB limit of TIFF; use PNG")
    struct.pack_into(order + "I", body, 4, len(body))
    body += struct.pack(order + "H", len(entries))
    body += b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    return bytes(body)


_Field = tuple[int, Sequence[int] | bytes]  # type and values


def _pixel_fields(samples: Samples, is_gray: bool, start: int) -> dict[int, _Field]:
    height, width, channels = np.atleast_3d(samples).shape
    fields = {
        Base.ImageWidth: (_LONG, [width]),
        Base.ImageLength: (_LONG, [height]),
        Base.BitsPerSample: (_SHORT, [8 * samples.itemsize] * channels),
        Base.Compression: (_SHORT, [1]),
        Base.PhotometricInterpretation: (_SHORT, [1 if is_gray else 2]),
        Base.StripOffsets: (_LONG, [start]),
        Base.SamplesPerPixel: (_SHORT, [channels]),
        Base.RowsPerStrip: (_LONG, [height]),
        Base.StripByteCounts: (_LONG, [min(samples.nbytes, _HIGHEST)]),
    }
    if channels in (2, 4):
        fields[Base.ExtraSamples] = (_SHORT, [_UNASSOCIATED])
    return fields


def _metadata_fields(metadata: Metadata, entries: Mapping[int, bytes]) -> dict[int, _Field]:
    fields = {}
    if metadata.resolution and Base.XResolution not in entries:  # EXIF takes precedence
        unit = 1 if metadata.resolution.is_ratio else 2
        for tag, side in zip((282, 283), metadata.resolution[:2], strict=True):
            fields[tag] = (_RATIONAL, _rational(side))
        fields[Base.ResolutionUnit] = (_SHORT, [unit])
    if metadata.xmp:
        fields[700] = (_BYTE, metadata.xmp)
    if metadata.iptc:
        fields[33723] = (_UNDEFINED, metadata.iptc)
    if metadata.icc_profile:
        fields[34675] = (_UNDEFINED, metadata.icc_profile)
    return fields


def _rational(value: Fraction) -> list[int]:
    value = value if value.numerator <= _HIGHEST else value.limit_denominator(10**4)
    return [min(value.numerator, _HIGHEST), value.denominator]


def _entry(
    body: bytearray, order: str, tag: int, kind: int, values: Sequence[int] | bytes
) -> bytes:
    """Returns a directory entry. Values of more than 4 bytes are appended to `body`."""
    is_bytes = isinstance(values, bytes)
    packed = values if is_bytes else struct.pack(f"{order}{len(values)}{_CODES[kind]}", *values)
    count = len(values) // (2 if kind == _RATIONAL else 1)
    head = struct.pack(order + "HHI", tag, kind, count)
    if len(packed) <= 4:
        return head + packed.ljust(4, b"\0")
    body += bytes(len(body) % 2)
    position = min(len(body), _HIGHEST)  # `encode_tiff` rejects larger files
    body += packed
    return head + struct.pack(order + "I", position)
