"""What a photograph is in memory."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True)
class Photograph:
    """A photograph with what its file tells beside the pixels.

    Attributes:
        pixels: H x W x 3, uint8 or uint16, RGB, upright; three equal channels when gray.
        alpha: H x W, dtype of the pixels, not premultiplied; None without transparency.
        is_gray: Whether the file holds gray samples, and gray is to be written.
        icc_profile: The colour profile of the pixels.
        exif: A block that begins with "Exif", without the orientation, which has been applied.
        notes: Sentences on what reading has changed or left out.
    """

    pixels: Samples
    alpha: Samples | None = None
    is_gray: bool = False
    icc_profile: bytes | None = None
    exif: bytes | None = None
    notes: tuple[str, ...] = ()


def as_8_bits(pixels: Samples) -> NDArray[np.uint8]:
    """Take the upper 8 of 16 bits, as OpenCV and Pillow do; pixels of 8 bits stay."""
    return (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels
