"""JPEG: libjpeg-turbo decodes the pixels and reports damage; Pillow does the rest."""

import io
import struct
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import simplejpeg
from PIL import Image, ImageCms, JpegImagePlugin

from vitdeblur_jax.data.image_io.decoded_image import Compression, Metadata, Resolution
from vitdeblur_jax.data.image_io.decoder_output import DecoderOutput, frame_notes, read_exif
from vitdeblur_jax.data.image_io.formats import check_memory, decoding_bytes, open_with_pillow
from vitdeblur_jax.utils.errors import UserError, one_line

SIGNATURE = b"\xff\xd8\xff"
_END = b"\xff\xd9"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_MORE_XMP = b"http://ns.adobe.com/xmp/extension/\0"
_EXIF, _PHOTOSHOP, _ICC = b"Exif\0\0", b"Photoshop 3.0\0", b"ICC_PROFILE\0"
_KNOWN_SEGMENTS = (b"JFIF\0", b"JFXX\0", b"Adobe", b"MPF\0", _EXIF, _XMP, _PHOTOSHOP, _ICC)
_IPTC = 0x0404
# libjpeg's warnings about data that it still decodes correctly. All other warnings mean damage.
_HARMLESS = ("Unknown Adobe", "Warning: unknown JFIF", "Corrupt JPEG data: bad ICC")
_ODD_SUBSAMPLING = "Could not determine subsampling"
_COLOR_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}  # by Pillow's mode
_UNITS = {1: Fraction(1), 2: Fraction(254, 100)}  # JFIF's, per inch


def decode_jpeg(data: bytes) -> DecoderOutput:
    """Decodes a JPEG file. A damaged file is decoded as far as possible.

    Raises:
        UserError: The image exceeds the memory limit, or nothing can be decoded.
    """
    with open_with_pillow(data) as image:
        check_memory(*image.size, _bytes_per_pixel(image))
        metadata, orientation, notes = _metadata(image)
        notes += frame_notes(image.format, getattr(image, "n_frames", 1))
        compression, mode = _compression(image), image.mode
    samples, damage = _decode(data, _COLOR_SPACES[mode])
    if mode == "CMYK":
        np.subtract(255, samples, out=samples)  # Adobe stores CMYK inverted
        samples, icc_profile, note = cmyk_to_rgb(samples, metadata.icc_profile)
        metadata, notes = metadata.replace(icc_profile=icc_profile), (*notes, note)
    return DecoderOutput(samples, orientation, metadata, compression, notes, damage)


def damage_of(data: bytes) -> tuple[str, ...]:
    """Returns libjpeg's warnings about damage in a JPEG stream."""
    try:
        simplejpeg.decode_jpeg(data, "GRAY")
    except ValueError as error:
        reason = one_line(error)
        return () if reason.startswith(_HARMLESS) or _ODD_SUBSAMPLING in reason else (reason,)
    return ()


def _decode(data: bytes, color_space: str) -> tuple[np.ndarray, tuple[str, ...]]:
    try:
        return simplejpeg.decode_jpeg(data, color_space), ()
    except ValueError as error:
        reason = one_line(error)
    if _ODD_SUBSAMPLING in reason:
        return _decode_with_pillow(data), ()
    try:
        samples = simplejpeg.decode_jpeg(data, color_space, strict=False)
    except ValueError as error:
        raise UserError(f"damaged or cut short ({one_line(error)})") from error
    if reason.startswith(_HARMLESS):
        return samples, ()
    if not damage_of(data + _END):
        return samples, ("the end marker is missing",)
    return samples, (reason,)


def _decode_with_pillow(data: bytes) -> np.ndarray:
    """Decodes, without warnings, what libjpeg supports but TurboJPEG's interface rejects."""
    with open_with_pillow(data) as image:
        samples = np.asarray(image)
    return np.atleast_3d(255 - samples if image.mode == "CMYK" else samples)


def _bytes_per_pixel(image: Image.Image) -> int:
    channels = len(image.getbands())
    coefficients = 2 * channels if image.info.get("progressive") else 0
    converted = 3 * channels if image.mode == "CMYK" else 0
    return decoding_bytes(channels, 1) + coefficients + converted


def _compression(image: Image.Image) -> Compression:
    if image.mode == "CMYK":
        return Compression()
    numbers = dict.fromkeys(table for *_, table in image.layer)  # in the order of the components
    found = [image.quantization[number] for number in numbers if number in image.quantization]
    return Compression(
        quantization=dict(enumerate(found)), subsampling=JpegImagePlugin.get_sampling(image)
    )


def _metadata(image: Image.Image) -> tuple[Metadata, int, tuple[str, ...]]:
    segments = [content for kind, content in image.applist if kind.startswith("APP")]
    comments = [content for kind, content in image.applist if kind == "COM"]
    xmp = [s.removeprefix(_XMP) for s in segments if s.startswith(_XMP)]
    resources = list(_photoshop_resources(segments))
    iptc = [content for kind, content in resources if kind == _IPTC]
    orientation, exif, notes = read_exif(image.info.get("exif"))
    metadata = Metadata(
        icc_profile=image.info.get("icc_profile") or None,
        exif=exif,
        xmp=xmp[0] if xmp else None,
        iptc=b"".join(iptc) or None,
        comment=b"\n".join(comments) or None,
        resolution=_resolution(image),
        others=tuple(dict.fromkeys(_unknown(segments))),
    )
    return metadata, orientation, notes


def _unknown(segments: list[bytes]) -> Iterator[str]:
    for content in segments:
        if content.startswith(_MORE_XMP):
            yield "extended XMP"
        elif not content.startswith(_KNOWN_SEGMENTS):
            name = content[:20].split(b"\0")[0].decode("ascii", "ignore")
            yield f"the segment {name!r}" if name.isprintable() and name else "a nameless segment"


def _photoshop_resources(segments: list[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yields the number and content of each Photoshop image resource, up to a damaged one."""
    data = b"".join(s.removeprefix(_PHOTOSHOP) for s in segments if s.startswith(_PHOTOSHOP))
    at = 0
    while data[at : at + 4] == b"8BIM" and at + 12 <= len(data):
        name_length = data[at + 6] + 1
        start = at + 6 + name_length + name_length % 2
        size = int.from_bytes(data[start : start + 4], "big")
        yield int.from_bytes(data[at + 4 : at + 6], "big"), data[start + 4 : start + 4 + size]
        at = start + 4 + size + size % 2


def _resolution(image: Image.Image) -> Resolution | None:
    x, y = image.info.get("jfif_density", (0, 0))
    unit = image.info.get("jfif_unit")
    if not x or not y or (unit not in _UNITS and x == y):
        return None
    factor = _UNITS.get(unit, Fraction(1))
    return Resolution(x * factor, y * factor, is_ratio=unit not in _UNITS)


def cmyk_to_rgb(
    samples: np.ndarray, icc_profile: bytes | None
) -> tuple[np.ndarray, bytes | None, str]:
    """Converts CMYK (0 is no ink) to RGB by its profile; returns RGB, its profile, and a note."""
    height, width, _ = samples.shape
    image = Image.frombytes("CMYK", (width, height), samples.tobytes())
    if not icc_profile:
        note = "CMYK converted to RGB without a profile"
        return np.asarray(image.convert("RGB")), None, note
    try:
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        rgb = ImageCms.profileToProfile(image, io.BytesIO(icc_profile), srgb, outputMode="RGB")
        return np.asarray(rgb), srgb.tobytes(), "CMYK converted to RGB by its own profile"
    except ImageCms.PyCMSError:
        note = "CMYK converted to RGB: its own profile is unusable"
        return np.asarray(image.convert("RGB")), None, note


def encode_jpeg(
    samples: np.ndarray, metadata: Metadata, compression: Compression, quality: int | None
) -> bytes:
    """Encodes samples and metadata as a JPEG file.

    Args:
        samples: H x W or H x W x 3, uint8.
        metadata: Metadata that JPEG supports, from `fitting.fitting`.
        compression: The compression of the input, used again if the input was a JPEG.
        quality: 1 to 100. None keeps the quality of a JPEG input; other inputs get 95.
    """
    options = {"quality": 95 if quality is None else quality}
    if compression.quantization and quality is None:
        options = {"qtables": compression.quantization}
    if samples.ndim == 3:
        options["subsampling"] = max(compression.subsampling, 0)
    for key in ("icc_profile", "xmp", "comment"):
        if getattr(metadata, key):
            options[key] = getattr(metadata, key)
    if metadata.exif:
        options["exif"] = _EXIF + metadata.exif
    buffer = io.BytesIO()
    Image.fromarray(samples).save(buffer, "JPEG", **options)
    jpeg = bytearray(buffer.getvalue())
    (length,) = struct.unpack_from(">H", jpeg, 4)  # of the first segment, the JFIF header
    if metadata.iptc:
        jpeg[4 + length : 4 + length] = _iptc_segment(metadata.iptc)
    if metadata.resolution:
        struct.pack_into(">BHH", jpeg, 13, *_density(metadata.resolution))
    return bytes(jpeg)


def _density(resolution: Resolution) -> tuple[int, int, int]:
    """Returns JFIF's unit and densities, per centimeter if only those are whole numbers."""
    sides, unit = resolution[:2], 0 if resolution.is_ratio else 1
    per_centimeter = [side / _UNITS[2] for side in sides]
    if unit and any(side % 1 for side in sides) and not any(side % 1 for side in per_centimeter):
        sides, unit = per_centimeter, 2
    x, y = (min(max(round(side), 1), 65_535) for side in sides)
    return unit, x, y


def _iptc_segment(iptc: bytes) -> bytes:
    content = _PHOTOSHOP + b"8BIM" + struct.pack(">HHI", _IPTC, 0, len(iptc)) + iptc
    content += bytes(len(iptc) % 2)
    return b"\xff\xed" + struct.pack(">H", len(content) + 2) + content
