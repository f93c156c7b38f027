"""What an image is in memory."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitdeblur_jax.data.image_io.exif import first_directory

_ORIENTATION = 274

Samples = NDArray[np.uint8] | NDArray[np.uint16]


class Resolution(NamedTuple):
    """Pixels per inch across and down; `is_ratio`: only their ratio means something."""

    x: Fraction
    y: Fraction
    is_ratio: bool = False


@dataclass(frozen=True)
class Metadata:
    """What a file tells beside the pixels.

    Attributes:
        icc_profile: The color profile of the pixels.
        png_color: Chunks of a PNG that define its colors (gAMA, cHRM, sRGB, cICP, mDCV, cLLI), by
            type.
        exif: A TIFF stream: header, directories, values. Its orientation is 1.
        xmp: An XMP packet.
        iptc: IPTC-IIM records.
        comment: A comment, as the file encodes it.
        resolution: How large the image is to be printed.
        png_text: Text chunks of a PNG (type, content), other than XMP and the comment.
        others: Names of what the file holds and no file that is written can.
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
        """Return a copy with other values."""
        return dataclasses.replace(self, **changes)

    def upright(self, orientation: int) -> "Metadata":
        """Return the metadata of the image after its orientation has been applied.

        The orientation in XMP becomes 1 and, if the image was turned by 90 degrees, what belongs to
        one axis changes places. EXIF has been changed where it was read. An orientation in XMP
        alone is not applied, so it stays: programs that turn an image by it still have to.

        Args:
            orientation: What was applied, from 1 to 8.
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
    """How a file compressed the pixels, so that the result can be compressed alike.

    Attributes:
        lossless: WebP: nothing was lost.
        quantization: JPEG: the quantization tables, as Pillow numbers them.
        subsampling: JPEG: 0 (4:4:4), 1 (4:2:2), 2 (4:2:0); -1 for another or none.
    """

    lossless: bool = False
    quantization: Mapping[int, Sequence[int]] | None = None
    subsampling: int = -1


@dataclass(frozen=True)
class DecodedImage:
    """An image with what its file tells beside the pixels.

    Attributes:
        pixels: H x W x 3, uint8 or uint16, RGB, upright; three equal channels when gray.
        alpha: H x W, dtype of the pixels, not premultiplied; None without transparency.
        is_gray: Whether the file holds gray samples, and gray is to be written.
        metadata: What else the file tells.
        compression: How the file compressed the pixels.
        notes: Sentences on what reading has changed or left out.
    """

    pixels: Samples
    alpha: Samples | None = None
    is_gray: bool = False
    metadata: Metadata = Metadata()
    compression: Compression = Compression()
    notes: tuple[str, ...] = ()


def as_8_bits(pixels: Samples) -> NDArray[np.uint8]:
    """Take the upper 8 of 16 bits, as OpenCV and Pillow do; pixels of 8 bits stay."""
    return (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels
