"""The return type of all decoders, and functions that they share."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vitdeblur_jax.data.image_io.decoded_image import Compression, Metadata, Samples
from vitdeblur_jax.data.image_io.exif import ExifError, upright

_STRIP = 2**20  # samples per step of un-premultiplying


class DecoderOutput(NamedTuple):
    """The samples and metadata of a file, before the orientation is applied.

    Attributes:
        samples: H x W x 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha); uint8 or uint16.
        orientation: The EXIF orientation, 1 to 8, not yet applied.
        metadata: The metadata of the file. Its EXIF orientation is already reset to 1.
        compression: The compression of the file.
        notes: One sentence for each thing that was changed or left out.
        damage: Messages about damaged pixels that the decoder could skip.
    """

    samples: Samples
    orientation: int
    metadata: Metadata
    compression: Compression = Compression()
    notes: Sequence[str] = ()
    damage: Sequence[str] = ()


def read_exif(exif: bytes | None) -> tuple[int, bytes | None, tuple[str, ...]]:
    """Returns the orientation, the EXIF with the orientation reset, and notes.

    Damaged EXIF is left out with a note, because the image does not need it.
    """
    if not exif:
        return 1, None, ()
    try:
        return upright(exif.removeprefix(b"Exif\0\0"))
    except ExifError as error:
        return 1, None, (f"EXIF left out: {error}",)


def full_range(samples: np.ndarray, depth: int) -> np.ndarray:
    """Scales unsigned samples of 9 to 16 bits to the range of uint16, rounded."""
    if depth == 16:
        return samples
    highest = 2**depth - 1
    table = np.rint(np.arange(highest + 1) * (65_535 / highest)).astype(np.uint16)
    return table[np.minimum(samples, highest)]


def unpremultiply(samples: Samples) -> None:
    """Divides the colors by alpha, the last channel, in place and a few rows at a time."""
    highest = np.iinfo(samples.dtype).max
    rows = max(1, _STRIP // max(1, samples[0].size))
    for start in range(0, len(samples), rows):
        part = samples[start : start + rows]
        alpha = np.maximum(part[..., -1:], 1).astype(np.float64)
        part[..., :-1] = np.rint(np.minimum(part[..., :-1] / alpha, 1) * highest)


def frame_notes(kind: str | None, count: int) -> tuple[str, ...]:
    """Returns a note if a file holds several images: the first is used; of HEIC, the primary."""
    if count < 2:
        return ()
    if kind == "HEIC":
        return (f"only the primary one of {count} images in the file is used",)
    if kind in ("TIFF", "MPO"):
        return (f"only the first of {count} images in the file is used",)
    return (f"animation: only the first of {count} frames is used",)
