"""Photographs from files: the one reader of the whole project.

Pillow holds the metadata and decodes most files. It reads 16-bit colour as 8 bits without a word,
so PNG is decoded by imagecodecs and 16-bit TIFF by tifffile.
"""

import contextlib
import io
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.ExifTags import IFD, Base

from vitdeblur_jax.data.image_io.formats import FORMATS
from vitdeblur_jax.data.image_io.photograph import Photograph, Samples
from vitdeblur_jax.errors import UserError, one_line

PIXEL_LIMIT = 2**28

_Metadata = tuple[int, bytes | None, bytes | None, tuple[str, ...]]  # orientation, ICC, EXIF, notes
_PILLOW_LOCK = threading.Lock()
for _decoder in ("imagecodecs", "tifffile"):  # what they grumble, our one line says better
    logging.getLogger(_decoder).addHandler(logging.NullHandler())
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TIFF_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 4: 1, 5: 4, 6: 3}  # by photometric interpretation
_ASSOCIATED, UNASSOCIATED = 1, 2  # kinds of alpha in a TIFF: premultiplied or not
_TEXT_TAGS = {270, 271, 272, 305, 306, 315, 33432}  # description, camera, software, date, author
_REFUSED_MODES = {"I": "32-bit samples", "F": "floating-point samples", "LAB": "CIELab colours"}
_UNFIT = "{}; save it as gray or RGB with 8 or 16 bits a channel"


def read_photograph(source: str | os.PathLike[str] | bytes, name: str | None = None) -> Photograph:
    """Read a photograph, upright, with the 8 or 16 bits a channel that its file has.

    Args:
        source: A path, or the bytes of a file.
        name: What errors call it; the path, or "standard input", when not given.

    Raises:
        UserError: The file is missing, unreadable, empty, cut short, damaged or no image; it has
            more than `PIXEL_LIMIT` pixels; or its samples are none of 8- or 16-bit gray or colour.
    """
    name = name or ("standard input" if isinstance(source, bytes) else str(source))
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: cannot be read ({one_line(error)})") from error
    if not data:
        raise UserError(f"{name}: the file is empty")
    decode = _decode_tiff if data.startswith(_TIFF_MAGIC) else _decode_with_pillow
    try:
        return _upright(*decode(data))
    except Exception as error:  # decoders raise nearly anything on damaged files
        raise UserError(f"{name}: {_why_unreadable(error)}") from error


def read_rgb(path: str | os.PathLike[str]) -> Samples:
    """Read the upright pixels of a photograph: H x W x 3, uint8 or uint16.

    Raises:
        UserError: As `read_photograph`.
    """
    return read_photograph(path).pixels


def size_of(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Return width and height from a file's head; None where only reading it all would tell."""
    try:
        with _quiet_pillow(), Image.open(path) as image:
            return image.size
    except (OSError, Image.DecompressionBombError):
        return None


def _why_unreadable(error: Exception) -> str:
    match error:
        case UserError():
            return str(error)
        case Image.DecompressionBombError():
            megapixels = PIXEL_LIMIT // 10**6
            return f"more than {megapixels} megapixels, the limit against decompression bombs"
        case UnidentifiedImageError():
            formats = ", ".join(dict.fromkeys(FORMATS.values()))
            return f"not an image that can be read, or one cut short; good are {formats}"
        case MemoryError():
            return "the picture does not fit into memory"
    return f"damaged or cut short ({one_line(error)})"


def _upright(samples: Samples, metadata: _Metadata) -> Photograph:
    """Turn samples of 1 (gray), 2 (gray, alpha), 3 or 4 (RGB, alpha) channels and part them."""
    orientation, icc_profile, exif, notes = metadata
    samples = samples.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else samples
    samples = samples[:, ::-1] if orientation in (2, 3, 6, 7) else samples
    samples = samples[::-1] if orientation in (3, 4, 7, 8) else samples
    is_gray, has_alpha = samples.shape[-1] <= 2, samples.shape[-1] in (2, 4)
    colours = samples[..., :-1] if has_alpha else samples
    pixels = np.repeat(colours, 3, axis=-1) if is_gray else np.ascontiguousarray(colours)
    alpha = np.ascontiguousarray(samples[..., -1]) if has_alpha else None
    return Photograph(pixels, alpha, is_gray, icc_profile, exif, notes)


@contextlib.contextmanager
def _quiet_pillow() -> Iterator[None]:
    # Pillow's limit (it refuses twice as many pixels) and Python's filters of warnings belong to
    # the whole process, so one thread at a time changes them.
    with _PILLOW_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, PIXEL_LIMIT // 2
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _decode_with_pillow(data: bytes) -> tuple[Samples, _Metadata]:
    with _quiet_pillow(), Image.open(io.BytesIO(data)) as image:
        is_png = image.format == "PNG"
        if not is_png:
            image.load()  # also turns a TIFF upright and forgets its orientation
        icc_profile = image.info.get("icc_profile") or None
        # Pillow decodes all of a PNG in search of EXIF behind the pixels: not unless there is some.
        in_head = is_png and b"eXIf" not in data
        orientation, exif, notes = _read_exif(
            partial(Image.Image.getexif, image) if in_head else image.getexif
        )
        if image.format != "TIFF":
            notes += _frame_notes(image.format, getattr(image, "n_frames", 1))
        notes += ("palette expanded to RGB",) if image.mode in ("P", "PA") else ()
        if image.mode == "CMYK":
            image, icc_profile, note = _cmyk_to_rgb(image, icc_profile)
            notes += (note,)
        samples = None if is_png else _pillow_samples(image)
    samples = imagecodecs.png_decode(data) if is_png else samples  # outside of the lock
    return np.atleast_3d(samples), (orientation, icc_profile, exif, notes)


def _read_exif(read: Callable[[], Image.Exif]) -> tuple[int, bytes | None, tuple[str, ...]]:
    orientation = 1
    try:
        exif = read()
        orientation = exif.get(Base.Orientation, 1)
        # Of a TIFF this is the directory of the page, which also tells where the old pixels lie.
        of_tiff = Base.StripOffsets in exif or Base.TileOffsets in exif
        kept = _TEXT_TAGS | {IFD.Exif, IFD.GPSInfo} if of_tiff else set(exif) - {Base.Orientation}
        for tag in set(exif) - kept:
            del exif[tag]
        return orientation, exif.tobytes() if len(exif) else None, ()
    except Exception:  # as with damaged pixels, but a photograph is whole without its EXIF
        return orientation, None, ("damaged EXIF left out",)


def _frame_notes(kind: str | None, count: int) -> tuple[str, ...]:
    if count < 2 or kind == "PSD":  # Pillow opens the flattened picture of all its layers
        return ()
    if kind in ("TIFF", "MPO"):
        return (f"only the first of {count} pictures in the file is used",)
    return (f"animation: only the first of {count} frames is used",)


def _pillow_samples(image: Image.Image) -> Samples:
    if image.mode.startswith("I;16") or (image.format, image.mode) == ("PPM", "I"):
        return np.asarray(image).astype(np.uint16)
    if image.mode in _REFUSED_MODES:
        raise UserError(_UNFIT.format(_REFUSED_MODES[image.mode]))
    modes = ("L", "LA") if image.mode in ("1", "L", "LA", "La") else ("RGB", "RGBA")
    return np.asarray(image.convert(modes[image.has_transparency_data]))


def _cmyk_to_rgb(
    image: Image.Image, icc_profile: bytes | None
) -> tuple[Image.Image, bytes | None, str]:
    if not icc_profile:
        return image.convert("RGB"), None, "CMYK converted to RGB without a profile"
    try:
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        rgb = ImageCms.profileToProfile(image, io.BytesIO(icc_profile), srgb, outputMode="RGB")
        return rgb, srgb.tobytes(), "CMYK converted to RGB by its own profile"
    except ImageCms.PyCMSError:
        return image.convert("RGB"), None, "CMYK converted to RGB: its own profile is unusable"


def _decode_tiff(data: bytes) -> tuple[Samples, _Metadata]:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page, notes = file.pages.first, _frame_notes("TIFF", len(file.pages))
        _check_tiff(page, len(data))
        colours, extra = _TIFF_COLOURS[page.photometric], page.extrasamples
        has_alpha = bool(extra) and extra[0] in (_ASSOCIATED, UNASSOCIATED)
        if page.samplesperpixel > colours and not has_alpha:
            notes += ("a channel of unknown meaning is left out",)
        if page.bitspersample != 16:
            samples, metadata = _decode_with_pillow(data)
            return samples, (*metadata[:3], metadata[3] + notes)
        orientation = page.tags.valueof(Base.Orientation, 1)
        icc_profile = page.tags.valueof(Base.InterColorProfile)
        planes = page.asarray(squeeze=False)[:, 0].astype(np.uint16, copy=False)
    # There is one plane, unless the colours lie apart.
    samples = np.concatenate(planes, axis=-1)[..., : colours + has_alpha]
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        samples[..., :1] = 65535 - samples[..., :1]
    if has_alpha and extra[0] == _ASSOCIATED:
        alpha = np.maximum(samples[..., colours:], 1).astype(np.float64)
        samples[..., :colours] = np.rint(np.minimum(samples[..., :colours] / alpha, 1) * 65535)
    with _quiet_pillow():
        _, exif, exif_notes = _read_exif(partial(_directory, data))
    return samples, (orientation, icc_profile, exif, notes + exif_notes)


def _directory(tiff: bytes) -> Image.Exif:
    exif = Image.Exif()
    exif.load_from_fp(io.BytesIO(tiff))
    return exif


def _check_tiff(page: tifffile.TiffPage, size: int) -> None:
    """Refuse what would be read wrongly: Pillow and tifffile take more than photographs."""
    colours = _TIFF_COLOURS.get(page.photometric, 0)
    if page.imagewidth * page.imagelength > PIXEL_LIMIT:
        raise Image.DecompressionBombError
    if page.is_reduced:
        raise UserError("begins with a thumbnail, as raw files of cameras do; save it as TIFF")
    if page.sampleformat != 1 or page.bitspersample not in (1, 2, 4, 8, 16):
        kind = {1: "unsigned", 2: "signed", 3: "floating-point"}.get(page.sampleformat, "unknown")
        raise UserError(_UNFIT.format(f"{page.bitspersample}-bit {kind} samples"))
    if not colours or (page.bitspersample == 16 and page.photometric > 2):
        name = getattr(page.photometric, "name", page.photometric)
        raise UserError(_UNFIT.format(f"{page.bitspersample}-bit {name} colours"))
    if not 0 <= page.samplesperpixel - colours <= 1:
        raise UserError(_UNFIT.format(f"{page.samplesperpixel} bands"))
    ends = map(sum, zip(page.dataoffsets, page.databytecounts, strict=False))
    if max(ends, default=size + 1) > size:
        raise UserError("the file is cut short")
