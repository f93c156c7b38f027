"""The return type of all decoders, and functions that they share."""

from collections.abc import Sequence
from typing import NamedTuple

from vitdeblur_jax.data.image_io.decoded_image import Compression, Metadata, Samples
from vitdeblur_jax.data.image_io.exif import ExifError, upright


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


def frame_notes(kind: str | None, count: int) -> tuple[str, ...]:
    """Returns a note if the file contains more than one image. Only the first one is used."""
    if count < 2:
        return ()
    if kind in ("TIFF", "MPO"):
        return (f"only the first of {count} images in the file is used",)
    return (f"animation: only the first of {count} frames is used",)
