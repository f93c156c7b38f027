"""An image in memory: pixels, alpha and metadata."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitdeblur_jax.data.image_io.exif import first_directory

HDR_LEVELS = "the HDR light levels"  # as `Metadata.others` names them
_ORIENTATION = 274

Samples = NDArray[np.uint8] | NDArray[np.uint16]


class Resolution(NamedTuple):
    """Pixels per inch, horizontally and vertically. With `is_ratio`, only the ratio counts."""

    x: Fraction
    y: Fraction
    is_ratio: bool = False


@dataclass(frozen=True)
class Metadata:
    """The metadata of an image file.

    Attributes:
        icc_profile: The color profile of the pixels.
        png_color: The PNG chunks that define colors (gAMA, cHRM, sRGB, cICP, mDCV, cLLI), by type.
        exif: A TIFF stream: header, directories, values. Its orientation is 1.
        xmp: An XMP packet.
        iptc: IPTC-IIM records.
        comment: A comment, in the encoding of the file.
        resolution: The print resolution.
        png_text: The other text chunks of a PNG (type, content), without XMP and the comment.
        others: Names of metadata that no output format supports.
    """

    icc_profile: bytes | None = None
    png_color: Mapping[bytes, bytes] = field(default_factory=dict)
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    comment: bytes | None = None
    resolution: Resolution | None = None
    png_text: Sequence[tuple[bytes, bytes]] = ()
    others: Sequence[str] = ()

    def replace(self, **changes: object) -> "Metadata":
        """Returns a copy with changed values."""
        return dataclasses.replace(self, **changes)

    def upright(self, orientation: int) -> "Metadata":
        """Returns the metadata of the image after its orientation was applied.

        This sets the orientation in XMP to 1. If the image was rotated by 90 degrees, it swaps the
        values for width and height. The reader has already updated EXIF. An orientation that is
        only in XMP is not applied to the pixels, so it stays.

        Args:
            orientation: The orientation that was applied, 1 to 8.
        """
        xmp, resolution = self.xmp, self.resolution
        is_turned = orientation > 4
        is_told = orientation != 1 or (self.exif and _ORIENTATION in first_directory(self.exif))
        if xmp and is_told:
            xmp = re.sub(rb"""(tiff:Orientation(?:=["']|>))[1-8]""", rb"\g<1>1", xmp)
        if xmp and is_turned:
            xmp = re.sub(rb"(Pixel)([XY])(Dimension)", _other_axis, xmp)
        if resolution and is_turned:
            resolution = resolution._replace(x=resolution.y, y=resolution.x)
        return self.replace(xmp=xmp, resolution=resolution)


def _other_axis(match: re.Match[bytes]) -> bytes:
    return match[1] + {b"X": b"Y", b"Y": b"X"}[match[2]] + match[3]


@dataclass(frozen=True)
class Compression:
    """The compression of a file, so that the result can be compressed in the same way.

    Attributes:
        lossless: Whether a WebP file is lossless.
        quantization: The quantization tables of a JPEG file, numbered in the order of the
            components that use them.
        subsampling: The chroma subsampling of a JPEG file: 0 (4:4:4), 1 (4:2:2), 2 (4:2:0); -1 for
            any other or none.
    """

    lossless: bool = False
    quantization: Mapping[int, Sequence[int]] | None = None
    subsampling: int = -1


@dataclass(frozen=True)
class DecodedImage:
    """An image and the metadata of its file.

    Attributes:
        pixels: H x W x 3, uint8 or uint16, RGB, upright. A gray image has three equal channels.
        alpha: H x W, same dtype as the pixels, not premultiplied. None without transparency.
        is_gray: Whether the file is gray. The writer then writes a gray file.
        metadata: The metadata of the file.
        compression: The compression of the file.
        notes: One sentence for each thing that the reader changed or left out.
    """

    pixels: Samples
    alpha: Samples | None = None
    is_gray: bool = False
    metadata: Metadata = Metadata()
    compression: Compression = Compression()
    notes: tuple[str, ...] = ()


def as_8_bits(pixels: Samples) -> NDArray[np.uint8]:
    """Returns the upper 8 of 16 bits, as OpenCV and Pillow do. 8-bit pixels are unchanged."""
    return (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels
