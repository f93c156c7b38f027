"""Files with metadata, what this package makes of them, and what Pillow and `struct` read there."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from tests.data.image_io.made_up_files import (
    SRGB,
    encoded,
    exif_block,
    noise,
)
from vitdeblur_jax.data.image_io import read_image, what_is_lost, write_image

PIXELS = noise(6, 5, 3)
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6" exif:PixelXDimension="5"/></x:xmpmeta>'
UPRIGHT_XMP = XMP.replace(b'"6"', b'"1"')
IPTC = b"\x1c\x02\x78\x00\x05Hello"


def rewritten(data: bytes, suffix: str, **options: object) -> bytes:
    decoded = read_image(data)
    stream = io.BytesIO()
    write_image(decoded, stream, format=suffix, **options)
    return stream.getvalue()


def lost(data: bytes, suffix: str) -> tuple[str, ...]:
    return what_is_lost(read_image(data), suffix)


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 255, marker, len(content) + 2) + content


def jpeg(*segments: bytes, pixels: np.ndarray = PIXELS, **options: object) -> bytes:
    data = encoded(pixels, "JPEG", **options)
    return data[:20] + b"".join(segments) + data[20:]  # behind the JFIF header


def full_jpeg() -> bytes:
    resource = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC
    return jpeg(
        segment(0xED, b"Photoshop 3.0\0" + resource),
        exif=exif_block(1).tobytes(),
        xmp=XMP,
        comment=b"a comment",
        dpi=(300, 200),
        icc_profile=SRGB,
    )


def pillow_info(data: bytes) -> dict[str, object]:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return {**image.info, "tags": getattr(image, "tag_v2", None)}


def png_chunks(data: bytes) -> dict[bytes, bytes]:
    found, at = {}, 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert zlib.crc32(kind + content) == struct.unpack_from(">I", data, at + 8 + length)[0]
        found[kind] = content
        at += 12 + length
    return found
