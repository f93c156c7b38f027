"""What every decoder returns, and what decoders share."""

from collections.abc import Sequence
from typing import NamedTuple

from vitdeblur_jax.data.image_io.decoded_image import Compression, Metadata, Samples
from vitdeblur_jax.data.image_io.exif import ExifError, upright


class DecoderOutput(NamedTuple):
    """Samples as the file arranges them, and what it tells beside them.

    Attributes:
        samples: H x W x 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha); uint8 or uint16.
        orientation: From 1 to 8, as EXIF has it, not yet applied.
        metadata: What else the file tells; the EXIF's orientation is reset already.
        compression: How the file compressed the samples.
        notes: Sentences on what was changed or left out.
        damage: What the decoder noticed of damage to the pixels, if it could go on.
    """

    samples: Samples
    orientation: int
    metadata: Metadata
    compression: Compression = Compression()
    notes: Sequence[str] = ()
    damage: Sequence[str] = ()


def read_exif(exif: bytes | None) -> tuple[int, bytes | None, tuple[str, ...]]:
    """Return the orientation, the EXIF with it reset, and notes; an image is whole without EXIF."""
    if not exif:
        return 1, None, ()
    try:
        return upright(exif.removeprefix(b"Exif\0\0"))
    except ExifError as error:
        return 1, None, (f"EXIF left out: {error}",)


def frame_notes(kind: str | None, count: int) -> tuple[str, ...]:
    """Return a note where a file of this format holds more than the one image that is used."""
    if count < 2:
        return ()
    if kind in ("TIFF", "MPO"):
        return (f"only the first of {count} images in the file is used",)
    return (f"animation: only the first of {count} frames is used",)
