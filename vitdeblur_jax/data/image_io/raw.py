"""Camera raw files, developed by LibRaw (rawpy), which is an extra of this package."""

import io
import os
import re

import numpy as np
import tifffile
from PIL import Image, ImageCms
from PIL.ExifTags import IFD

from vitdeblur_jax.data.image_io.boxes import find
from vitdeblur_jax.data.image_io.decoded_image import Metadata
from vitdeblur_jax.data.image_io.decoder_output import DecoderOutput, read_exif
from vitdeblur_jax.data.image_io.formats import (
    RAF,
    RAW_SIGNATURES,
    check_memory,
    open_with_pillow,
    require,
)
from vitdeblur_jax.data.image_io.tiff import bytes_of, exif_of_page
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.output import c_messages

_SENSOR = (32803, 34892)  # photometric interpretations: color filter array, linear raw
_XMP = 700
_MESSAGE = re.compile(rb".*: (Unexpected end of file|data corrupted at \d+)$")  # of LibRaw
_BYTES_PER_PIXEL = 20  # LibRaw's sensor values, four channels, and three of the result
_SRGB_CURVE = (2.4, 12.92)  # gamma and the slope near black
_CANON = bytes.fromhex("85c0b687820f11e08111f4ce462b6a48")  # the box that has CR3's EXIF
_ORIENTATIONS = (1, 2, 4, 3, 5, 8, 6, 7)  # those of EXIF, by LibRaw's code
_PREVIEW_OF_RAF = 84  # where the place and the size of its JPEG are stored


def is_raw_tiff(source: str | os.PathLike[str] | bytes) -> bool:
    """Returns whether a TIFF file has sensor values: DNG, CR2, NEF, ARW or PEF."""
    source = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with tifffile.TiffFile(source) as file:
            file.filehandle.seek(8)
            if file.filehandle.read(2) == b"CR":
                return True
            page = file.pages.first
            return any(one.photometric in _SENSOR for one in (page, *(page.pages or ())))
    except Exception:  # decoders raise almost any error; `decode_tiff` tells of this one
        return False


def raw_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Returns the width and height of the developed image.

    Raises:
        UserError: rawpy is missing.
    """
    require("RAW")
    import rawpy

    with c_messages(_MESSAGE), rawpy.imread(os.fspath(path)) as file:
        sizes = file.sizes
    width, height = sizes.iwidth, sizes.iheight
    return (height, width) if sizes.flip in (4, 5, 6, 7) else (width, height)


def decode_raw(data: bytes) -> DecoderOutput:
    """Develops a raw file to 16-bit sRGB, with the camera's white balance and its orientation.

    The image is not brightened: the value at which the sensor saturates, as LibRaw estimates it
    from the camera and the image, becomes white.

    Raises:
        UserError: rawpy is missing, the image exceeds the memory limit, or LibRaw cannot read it.
    """
    require("RAW")
    import rawpy

    messages = []
    try:
        with c_messages(_MESSAGE) as messages, rawpy.imread(io.BytesIO(data)) as file:
            check_memory(file.sizes.raw_width, file.sizes.raw_height, _BYTES_PER_PIXEL)
            orientation = _ORIENTATIONS[file.sizes.flip & 7]
            balance = "the camera's" if any(file.camera_whitebalance) else "a daylight"
            samples = file.postprocess(
                use_camera_wb=True, output_bps=16, no_auto_bright=True, gamma=_SRGB_CURVE
            )
    except rawpy.LibRawError as error:
        reason = messages[0] if messages else error.args[0] if error.args else ""
        reason = reason.decode("ascii", "replace") if isinstance(reason, bytes) else str(reason)
        raise UserError(f"damaged, cut short or not supported by LibRaw ({reason})") from error
    exif, xmp, notes = metadata_of(data)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    developed = f"raw file developed to 16-bit sRGB with {balance} white balance"
    samples = np.atleast_3d(samples)
    icc_profile = srgb if samples.shape[-1] == 3 else None  # a monochrome sensor
    metadata = Metadata(icc_profile=icc_profile, exif=exif, xmp=xmp).upright(orientation)
    return DecoderOutput(samples, 1, metadata, notes=(developed, *notes))


def metadata_of(data: bytes) -> tuple[bytes | None, bytes | None, tuple[str, ...]]:
    """Returns the EXIF of a raw file with the orientation reset, its XMP, and notes."""
    xmp = None
    try:
        if data.startswith(RAF):
            exif, notes = _exif_of_raf(data), ()
        elif data[4:8] == b"ftyp":
            exif, notes = _exif_of_cr3(data)
        else:
            if data.startswith(RAW_SIGNATURES):
                data = (b"II*\0" if data[:2] == b"II" else b"MM\0*") + data[4:]
            with tifffile.TiffFile(io.BytesIO(data)) as file:
                exif, notes = exif_of_page(file.pages.first, data)
                xmp = bytes_of(file.pages.first.tags.valueof(_XMP))
    except Exception:  # decoders raise almost any error; the image does not need EXIF
        return None, None, ("EXIF left out: it is damaged",)
    _, exif, more_notes = read_exif(exif)
    return exif, xmp, (*notes, *more_notes)


def _exif_of_raf(data: bytes) -> bytes | None:
    start, size = (
        int.from_bytes(data[at : at + 4], "big") for at in (_PREVIEW_OF_RAF, _PREVIEW_OF_RAF + 4)
    )
    with open_with_pillow(data[start : start + size]) as preview:
        return preview.info.get("exif")


def _exif_of_cr3(data: bytes) -> tuple[bytes | None, tuple[str, ...]]:
    """Joins the directories of a CR3, which are TIFF streams of their own; returns notes, too."""
    canon = find(data, b"moov", b"uuid")
    if not canon or not canon.startswith(_CANON):
        return None, ()
    exif = Image.Exif()
    main = find(canon, b"CMT1", start=len(_CANON))
    if main:
        exif.load(main)
    for kind, directory in ((b"CMT2", IFD.Exif), (b"CMT4", IFD.GPSInfo)):
        content = find(canon, kind, start=len(_CANON))
        if content:
            part = Image.Exif()
            part.load(content)
            exif.get_ifd(directory).update(part)
    has_maker_note = find(canon, b"CMT3", start=len(_CANON)) is not None
    return exif.tobytes(), ("the camera's maker note is left out",) if has_maker_note else ()
