"""HEIC and HEIF by pillow-heif, which is an extra of this package."""

import contextlib
import io

import numpy as np
from PIL import Image
from PIL.ExifTags import Base

from vitdeblur_jax.data.image_io.color_codes import SRGB, codes, color_chunk
from vitdeblur_jax.data.image_io.decoded_image import HDR_LEVELS, Metadata, Samples
from vitdeblur_jax.data.image_io.decoder_output import (
    DecoderOutput,
    frame_notes,
    full_range,
    read_exif,
    unpremultiply,
)
from vitdeblur_jax.data.image_io.formats import check_memory, require

_BYTES_PER_PIXEL = 30  # libheif's planes, RGBA of 16 bits, and the copies of this package
_AS_STORED = {"convert_hdr_to_8bit": False, "hdr_to_16bit": False}
# The colors of Sony's files: sRGB, the matrix of BT.601, limited range.
_SONY_LIMITED = b"colrnclx" + bytes([0, 1, 0, 13, 0, 5, 0])
_DEPTH = 10  # bits per sample of what is written from 16; more is not widely supported
_QUALITY = 95
_FULL_RANGE_BT601 = {"matrix_coefficients": 6, "full_range_flag": 1}  # of the stored YCbCr


def decode_heic(data: bytes) -> DecoderOutput:
    """Decodes the primary image of a HEIF file. libheif applies its rotation and crop.

    Raises:
        UserError: pillow-heif is missing, or the image exceeds the memory limit.
        ValueError: The file is damaged.
    """
    require("HEIC")
    import pillow_heif

    file = pillow_heif.open_heif(_with_true_range(data), **_AS_STORED)
    image = file[file.primary_index]
    check_memory(*image.size, _BYTES_PER_PIXEL)
    width, height = image.size
    samples = np.atleast_3d(np.asarray(image))
    if samples.shape[:2] != (height, width):
        raise ValueError("the pixels have another size than the header says")
    if samples.dtype != np.uint8:
        samples = full_range(samples, image.info["bit_depth"])
    if image.premultiplied_alpha:
        samples = samples.copy()
        unpremultiply(samples)
    # The pixels are upright already; EXIF still has the orientation before libheif applied it.
    _, exif, notes = read_exif(image.info["exif"])
    notes += frame_notes("HEIC", len(file))
    return DecoderOutput(samples, 1, _metadata(image.info, exif), notes=notes)


def _with_true_range(data: bytes) -> bytes:
    """Returns the file with the range that a camera meant.

    Some Sony cameras write full-range samples, as the H.265 stream and their own thumbnail show,
    and state the limited range in the colr box. libheif follows the box, as the standard wants.
    """
    import pillow_heif

    if _SONY_LIMITED not in data:
        return data
    file = pillow_heif.open_heif(data, **_AS_STORED)
    exif = Image.Exif()
    with contextlib.suppress(Exception):  # damaged EXIF; `read_exif` tells of it
        exif.load(file[file.primary_index].info["exif"])
    is_sony = str(exif.get(Base.Make, "")).upper().startswith("SONY")
    return data.replace(_SONY_LIMITED, _SONY_LIMITED[:-1] + b"\x80") if is_sony else data


def heic_size(data: bytes) -> tuple[int, int]:
    """Returns the width and height of the primary image.

    Raises:
        UserError: pillow-heif is missing.
        ValueError: The file is damaged.
    """
    require("HEIC")
    import pillow_heif

    return pillow_heif.open_heif(data).size


def _metadata(info: dict, exif: bytes | None) -> Metadata:
    icc_profile, nclx = info.get("icc_profile") or None, info.get("nclx_profile")
    color = {}
    if nclx and not icc_profile:
        color = color_chunk(nclx["color_primaries"], nclx["transfer_characteristics"])
    others = [f"the auxiliary image {name.rsplit(':', 1)[-1]}" for name in info.get("aux", ())]
    others += ["the depth map"] if info["depth_images"] else []
    is_hdr = info.get("content_light_level") or info.get("mastering_display_colour_volume")
    others += [HDR_LEVELS] if is_hdr else []
    return Metadata(
        icc_profile=icc_profile,
        png_color=color,
        exif=exif,
        xmp=(info.get("xmp") or b"").rstrip(b"\0") or None,
        others=others,
    )


def encode_heic(samples: Samples, metadata: Metadata, quality: int | None) -> bytes:
    """Encodes samples, H x W x 3 or 4, and metadata as a HEIC file with 8 or 10 bits.

    Args:
        samples: RGB or RGBA. 16 bits are reduced to 10.
        metadata: Metadata that HEIC supports, from `fitting.fitting`.
        quality: 1 to 100. None is 95.
    """
    import pillow_heif

    height, width, channels = samples.shape
    mode = "RGB" if channels == 3 else "RGBA"
    if samples.dtype == np.uint16:
        highest = 2**_DEPTH - 1
        samples = ((samples.astype(np.uint32) * highest + 32_767) // 65_535).astype("<u2")
        mode = f"{mode};{_DEPTH}"
    found = codes(metadata.png_color) or SRGB
    options = {"color_primaries": found[0], "transfer_characteristics": found[1]}
    options |= {key: getattr(metadata, key) for key in ("exif", "xmp", "icc_profile")}
    buffer = io.BytesIO()
    pillow_heif.encode(
        mode,
        (width, height),
        np.ascontiguousarray(samples).tobytes(),
        buffer,
        quality=quality or _QUALITY,
        bit_depth=_DEPTH,
        **_FULL_RANGE_BT601,
        **{key: value for key, value in options.items() if value is not None},
    )
    return buffer.getvalue()
