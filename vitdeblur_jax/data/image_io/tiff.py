"""TIFF by tifffile and imagecodecs."""

import contextlib
import contextvars
import io
import logging
import os
import struct
from collections.abc import Iterator
from fractions import Fraction

import imagecodecs
import numpy as np
import tifffile
from PIL import Image
from PIL.ExifTags import IFD, Base
from tifffile import COMPRESSION, PHOTOMETRIC

from vitdeblur_jax.data.image_io.decoded_image import Metadata, Resolution, Samples
from vitdeblur_jax.data.image_io.decoder_output import (
    DecoderOutput,
    frame_notes,
    read_exif,
    unpremultiply,
)
from vitdeblur_jax.data.image_io.exif import BIG_TIFF, is_machine_made
from vitdeblur_jax.data.image_io.formats import MEMORY_LIMIT, check_memory, decoding_bytes
from vitdeblur_jax.data.image_io.jpeg import cmyk_to_rgb, damage_of
from vitdeblur_jax.data.image_io.tiff_writing import PIXEL_TAGS
from vitdeblur_jax.utils.errors import UserError

UNFIT = "{}; save it as gray or RGB with 8 or 16 bits a channel"

_COLORS = {0: 1, 1: 1, 2: 3, 3: 1, 4: 1, 5: 4, 6: 3}  # samples by photometric interpretation
_ASSOCIATED, _UNASSOCIATED = 1, 2  # kinds of alpha: premultiplied or not
_TEXT_TAGS = (270, 271, 272, 305, 306, 315, 33432)  # description, camera, software, date, author
_XMP, _IPTC, _ICC = 700, 33723, 34675
_KNOWN_TAGS = PIXEL_TAGS | {*_TEXT_TAGS, IFD.Exif, IFD.GPSInfo, _XMP, _IPTC, _ICC}
_KNOWN_TAGS |= {Base.Orientation, Base.XResolution, Base.YResolution, Base.ResolutionUnit}
_MAKER_NOTE = 0x927C
_INCHES = {1: Fraction(1), 2: Fraction(1), 3: Fraction(254, 100)}  # by resolution unit
_JPEG = (COMPRESSION.JPEG, COMPRESSION.OJPEG, 34892)
_CCITT = {
    COMPRESSION.CCITTRLE: imagecodecs.ccittrle_decode,
    COMPRESSION.CCITT_T4: imagecodecs.ccittfax3_decode,
    COMPRESSION.CCITT_T6: imagecodecs.ccittfax4_decode,
}

_drops_log = contextvars.ContextVar("drops_log", default=False)

for _library in ("imagecodecs", "tifffile"):
    logging.getLogger(_library).addHandler(logging.NullHandler())
    logging.getLogger(_library).addFilter(lambda record: not _drops_log.get())


@contextlib.contextmanager
def without_log() -> Iterator[None]:
    """Drops what tifffile and imagecodecs log in this thread: our one-line error replaces it."""
    token = _drops_log.set(True)
    try:
        yield
    finally:
        _drops_log.reset(token)


def decode_tiff(data: bytes) -> DecoderOutput:
    """Decodes the first page of a TIFF or BigTIFF file.

    Raises:
        UserError: The image exceeds the memory limit, is cut short, or has an unsupported sample
            type.
        ValueError: The file is damaged.
    """
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page, notes = file.pages.first, frame_notes("TIFF", len(file.pages))
        _check_directory(file, data)
        _check(page, len(data))
        colors, extra = _COLORS[page.photometric], page.extrasamples
        has_alpha = bool(extra) and extra[0] in (_ASSOCIATED, _UNASSOCIATED)
        becomes_rgb = _is_ycbcr(page) or page.photometric == PHOTOMETRIC.PALETTE
        if has_alpha and (becomes_rgb or page.photometric == PHOTOMETRIC.SEPARATED):
            notes += ("transparency is left out",)
        if page.samplesperpixel > colors and not has_alpha:
            notes += ("a channel of unknown meaning is left out",)
        damage = _damage(page, data)
        metadata, orientation, more_notes = _metadata(page, data)
        planes = page.asarray(squeeze=False)[:, 0]  # one, or one per channel
        samples = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=-1)
    samples = _full_range(samples[..., : colors + has_alpha], page, colors)
    if has_alpha and extra[0] == _ASSOCIATED and not becomes_rgb:
        unpremultiply(samples)
    if page.photometric == PHOTOMETRIC.SEPARATED:
        samples, icc_profile, note = cmyk_to_rgb(samples[..., :4], metadata.icc_profile)
        metadata, notes = metadata.replace(icc_profile=icc_profile), (*notes, note)
    if page.photometric == PHOTOMETRIC.PALETTE:
        notes += ("palette expanded to RGB",)
    notes = (*notes, *more_notes)
    return DecoderOutput(samples, orientation, metadata, notes=notes, damage=damage)


def tiff_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Returns the width and height of the first page."""
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        return int(page.imagewidth), int(page.imagelength)  # a damaged tag may hold many values


def _is_ycbcr(page: tifffile.TiffPage) -> bool:
    """Returns whether the samples are YCbCr; decoders of JPEG convert them to RGB."""
    return page.photometric == PHOTOMETRIC.YCBCR and page.compression not in _JPEG


def _full_range(samples: np.ndarray, page: tifffile.TiffPage, colors: int) -> Samples:
    """Expands 1, 2 and 4 bits, palettes and YCbCr to 8 bits, and inverts white-is-zero images."""
    highest = 2 ** min(page.bitspersample, 16) - 1
    if page.photometric == PHOTOMETRIC.PALETTE:
        palette = (np.asarray(page.colormap) >> 8).astype(np.uint8).T  # a row for each color
        return palette[np.minimum(samples[..., 0], len(palette) - 1)]
    if _is_ycbcr(page):
        height, width, _ = samples.shape
        image = Image.frombytes("YCbCr", (width, height), samples[..., :3].tobytes())
        return np.asarray(image.convert("RGB"))
    dtype = np.uint16 if page.bitspersample == 16 else np.uint8
    samples = samples.astype(dtype, copy=not samples.flags.writeable)
    if page.bitspersample < 8:
        samples *= 255 // highest
    if page.photometric == PHOTOMETRIC.MINISWHITE:
        samples[..., :colors] = np.iinfo(dtype).max - samples[..., :colors]
    return samples


def _check_directory(file: tifffile.TiffFile, data: bytes) -> None:
    """Raises `UserError` if the directory is cut short. tifffile would read a part of it."""
    form, start = file.tiff, file.pages.first.offset
    (count,) = struct.unpack_from(form.tagnoformat, data, start)
    if start + form.tagnosize + count * form.tagsize + form.offsetsize > len(data):
        raise UserError("the file is cut short")


def _check(page: tifffile.TiffPage, size: int) -> None:
    """Raises `UserError` for files that tifffile reads but that are not supported images."""
    colors, depth = _COLORS.get(page.photometric, 0), 1 + (page.bitspersample > 8)
    channels = min(page.samplesperpixel, 4)
    extra = {PHOTOMETRIC.PALETTE: 3, PHOTOMETRIC.SEPARATED: 12, PHOTOMETRIC.YCBCR: 6}
    # Memory for the decoded segments, the page, and joined planes.
    copies = (page.compression != 1) + (page.planarconfig == 2)
    per_pixel = decoding_bytes(channels, depth, copies=copies) + extra.get(page.photometric, 0)
    if page.imagedepth != 1 or page.tiledepth > 1:
        raise UserError("the file contains a volume; save one of its slices")
    check_memory(page.imagewidth, page.imagelength, per_pixel)
    if page.is_tiled:
        check_memory(page.tilewidth, page.tilelength, per_pixel)
    if page.is_reduced:
        raise UserError("the file starts with a thumbnail, like camera raw files; convert it first")
    if page.sampleformat != 1 or page.bitspersample not in (1, 2, 4, 8, 16):
        kind = {1: "unsigned", 2: "signed", 3: "floating-point"}.get(page.sampleformat, "unknown")
        raise UserError(UNFIT.format(f"{page.bitspersample}-bit {kind} samples"))
    subsampled = page.photometric == 6 and page.compression not in _JPEG
    subsampled = subsampled and page.subsampling not in (None, (1, 1))
    if not colors or (page.bitspersample == 16 and page.photometric > 2) or subsampled:
        name = getattr(page.photometric, "name", page.photometric)
        raise UserError(UNFIT.format(f"{page.bitspersample}-bit {name} colors"))
    if not 0 <= page.samplesperpixel - colors <= 1:
        raise UserError(UNFIT.format(f"{page.samplesperpixel} bands"))
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    if not segments or not all(count for _, count in segments) or max(map(sum, segments)) > size:
        raise UserError("the file is cut short")


def _damage(page: tifffile.TiffPage, data: bytes) -> tuple[str, ...]:
    """Returns what is wrong with segments that the codecs decode without a word."""
    if page.compression not in _CCITT and page.compression != COMPRESSION.JPEG:
        return ()
    for index, segment in enumerate(_segments(page, data)):
        if page.compression == COMPRESSION.JPEG:
            tables = page.jpegtables[:-2] + segment[2:] if page.jpegtables else segment
            if damage := damage_of(tables):
                return damage
        elif not _is_sound_ccitt(page, segment, _rows(page, index)):
            return ("bad code words in its fax compression",)
    return ()


def _segments(page: tifffile.TiffPage, data: bytes) -> Iterator[bytes]:
    for start, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        segment = data[start : start + count]
        yield imagecodecs.bitorder_decode(segment) if page.fillorder == 2 else segment


def _rows(page: tifffile.TiffPage, index: int) -> int:
    """Returns how many rows of pixels a segment holds."""
    if page.is_tiled:
        return page.tilelength
    strips = -(-page.imagelength // page.rowsperstrip)
    first = index % strips * page.rowsperstrip
    return min(page.rowsperstrip, page.imagelength - first)


def _is_sound_ccitt(page: tifffile.TiffPage, segment: bytes, rows: int) -> bool:
    """Returns whether all rows can be decoded. Without a row count, decoding stops at an error.

    Zeros, which are not a code word, mark the end of the data. The function decodes growing parts
    of the data: a row may take a single bit, and the decoder allocates memory for all rows it
    finds.
    """
    decode, width = _CCITT[page.compression], page.tilewidth if page.is_tiled else page.imagewidth
    options = {}
    if page.compression == COMPRESSION.CCITT_T4:
        options["t4options"] = page.tags.valueof(292) or 0
    step = max(64, MEMORY_LIMIT // (64 * width))
    for end in range(step, len(segment) + step, step):
        try:
            if len(decode(segment[:end] + bytes(64), 0, width, **options)) >= rows:
                return True
        except imagecodecs.CcittError:
            continue  # the first row may be incomplete
    return False


def _metadata(page: tifffile.TiffPage, data: bytes) -> tuple[Metadata, int, tuple[str, ...]]:
    value, is_big = page.tags.valueof, data.startswith(BIG_TIFF)
    exif, notes = exif_of_page(page, data)
    _, exif, exif_notes = read_exif(exif)
    orientation = value(Base.Orientation, 1)
    description = str(value(Base.ImageDescription, "")).encode("utf-8", "replace")
    if is_big and is_machine_made(description):
        notes += ("the description of the input file's pixel layout is left out",)
    metadata = Metadata(
        icc_profile=bytes_of(value(_ICC)),
        exif=exif,
        xmp=bytes_of(value(_XMP)),
        iptc=bytes_of(value(_IPTC)),
        resolution=_resolution(page),
        others=[f"the tag {tag.name}" for tag in page.tags if tag.code not in _KNOWN_TAGS],
    )
    is_valid = isinstance(orientation, int) and 1 <= orientation <= 8
    return metadata, int(orientation) if is_valid else 1, (*notes, *exif_notes)


def exif_of_page(page: tifffile.TiffPage, data: bytes) -> tuple[bytes | None, tuple[str, ...]]:
    """Copies the text and EXIF of the page's directory to a separate EXIF stream."""
    kept = {*_TEXT_TAGS, IFD.Exif, IFD.GPSInfo}
    if not any(tag.code in kept for tag in page.tags):
        return None, ()
    if data.startswith(BIG_TIFF):
        return None, ("EXIF left out: it has a BigTIFF header",)
    try:
        exif = Image.Exif()
        exif.load_from_fp(io.BytesIO(data))
        for tag in set(exif) - kept - {Base.Orientation}:  # read_exif resets the orientation
            del exif[tag]
        has_maker_note = _MAKER_NOTE in exif.get_ifd(IFD.Exif)
        stream = exif.tobytes()
    except Exception:  # decoders raise almost any error; the image does not need EXIF
        return None, ("EXIF left out: it is damaged",)
    moved = "EXIF rewritten: programs may no longer read the camera's maker note"
    return stream, (moved,) if has_maker_note else ()


def bytes_of(value: object) -> bytes | None:
    """Returns the bytes of a tag, which tifffile returns as bytes, text or 32-bit numbers."""
    if isinstance(value, tuple):
        return struct.pack(f"<{len(value)}I", *value)
    return value.encode() if isinstance(value, str) else value or None


def _resolution(page: tifffile.TiffPage) -> Resolution | None:
    try:
        x, y = (Fraction(*page.tags.valueof(tag)) for tag in (Base.XResolution, Base.YResolution))
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    unit = page.tags.valueof(Base.ResolutionUnit, 2)
    if x <= 0 or y <= 0 or unit not in _INCHES or (unit == 1 and x == y):
        return None
    return Resolution(x * _INCHES[unit], y * _INCHES[unit], is_ratio=unit == 1)
