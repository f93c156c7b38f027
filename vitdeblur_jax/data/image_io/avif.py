"""AVIF: imagecodecs decodes 8 to 12 bits, Pillow reads the metadata and encodes."""

import io

import imagecodecs
import numpy as np
from PIL import Image

from vitdeblur_jax.data.image_io.boxes import primary_properties
from vitdeblur_jax.data.image_io.color_codes import color_chunk
from vitdeblur_jax.data.image_io.decoded_image import Metadata, Samples
from vitdeblur_jax.data.image_io.decoder_output import (
    DecoderOutput,
    frame_notes,
    full_range,
    read_exif,
)
from vitdeblur_jax.data.image_io.exif import without_orientation
from vitdeblur_jax.data.image_io.formats import check_memory, open_with_pillow, require

_QUALITY = 95
_BYTES_PER_PIXEL = 26  # planes and RGBA of 16 bits, and the copies that split off alpha


def decode_avif(data: bytes) -> DecoderOutput:
    """Decodes the first frame of an AVIF file.

    Raises:
        UserError: The image exceeds the memory limit, or a codec is missing.
        OSError: The container is damaged.
        RuntimeError: The pixels are damaged.
    """
    require("AVIF")
    with open_with_pillow(data) as image:
        check_memory(*image.size, _BYTES_PER_PIXEL)
        info, notes = image.info, frame_notes(image.format, getattr(image, "n_frames", 1))
    properties = primary_properties(data)
    orientation, exif, exif_notes = read_exif(info.get("exif"))
    icc_profile = info.get("icc_profile") or None
    metadata = Metadata(
        icc_profile=icc_profile,
        png_color={} if icc_profile else nclx_color(properties),
        exif=exif,
        xmp=info.get("xmp") or None,
    )
    samples = np.atleast_3d(imagecodecs.avif_decode(data, index=0))
    if samples.dtype != np.uint8:
        samples = full_range(samples, _depth(data, properties))
    return DecoderOutput(samples, orientation, metadata, notes=(*exif_notes, *notes))


def nclx_color(properties: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Returns the color definition in the properties of a HEIF item as a cICP chunk."""
    for kind, content in properties:
        if kind == b"colr" and content[:4] == b"nclx" and len(content) >= 8:
            codes = (int.from_bytes(content[at : at + 2], "big") for at in (4, 6))
            return color_chunk(*codes)
    return {}


def _depth(data: bytes, properties: list[tuple[bytes, bytes]]) -> int:
    """Returns the bits per sample of a file with more than 8."""
    for kind, content in properties:
        if kind == b"pixi" and content[5:6] in (b"\x0a", b"\x0c"):  # it may be damaged
            return content[5]
    at = data.find(b"av1C")  # the image or a tile of it
    is_twelve = at >= 0 and data[at + 6] & 0x20
    return 12 if is_twelve else 10


def encode_avif(samples: Samples, metadata: Metadata, quality: int | None) -> bytes:
    """Encodes samples, H x W (gray) or H x W x 3 or 4, and metadata as an AVIF file of 8 bits.

    Args:
        samples: uint8.
        metadata: Metadata that AVIF supports, from `fitting.fitting`.
        quality: 1 to 100. None is 95.
    """
    held = {key: getattr(metadata, key) for key in ("icc_profile", "exif", "xmp")}
    options = {key: value for key, value in held.items() if value}
    if metadata.exif:  # with an orientation, Pillow would lay EXIF out anew
        options["exif"] = without_orientation(metadata.exif)
    if samples.ndim == 3:
        options["subsampling"] = "4:4:4"
    buffer = io.BytesIO()
    Image.fromarray(samples).save(buffer, "AVIF", quality=quality or _QUALITY, **options)
    return buffer.getvalue()
