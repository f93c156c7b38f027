"""Fits metadata to a file format. Unsupported metadata is left out and listed in a note."""

import struct
from collections.abc import Mapping, Sequence

import imagecodecs

from vitdeblur_jax.data.image_io.color_codes import codes, profile_of
from vitdeblur_jax.data.image_io.decoded_image import HDR_LEVELS, Metadata
from vitdeblur_jax.data.image_io.jxl_header import can_write_codes

_NAMES = {
    "icc_profile": "the color profile",
    "png_color": "the color definition (CICP)",
    "exif": "EXIF",
    "xmp": "XMP",
    "iptc": "IPTC",
    "comment": "the comment",
    "resolution": "the resolution",
    "png_text": "the PNG's text",
}
_HELD = {
    "PNG": {"icc_profile", "png_color", "exif", "xmp", "comment", "resolution", "png_text"},
    "JPEG": {"icc_profile", "exif", "xmp", "iptc", "comment", "resolution"},
    "TIFF": {"icc_profile", "exif", "xmp", "iptc", "resolution"},
    "WEBP": {"icc_profile", "exif", "xmp"},
    "BMP": {"resolution"},
    "HEIC": {"icc_profile", "png_color", "exif", "xmp"},
    "AVIF": {"icc_profile", "exif", "xmp"},
    "JXL": {"icc_profile", "png_color", "exif", "xmp"},
}
# Largest content of one JPEG segment in bytes, without its length and its name.
_LONGEST_IN_JPEG = {"exif": 65_527, "xmp": 65_504, "iptc": 65_506, "comment": 65_533}
_HDR_CHUNKS = {b"mDCV", b"cLLI"}
_UNUSABLE_PRIMARIES = "the color definition (cHRM), which is unusable"
_SRGB_GAMMA = 45_455  # 1 / 2.2, which PNG files use for sRGB
_SRGB_PRIMARIES = (31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000)
_SRGB_CODES = (b"\1\x0d\0\1",)  # primaries, transfer function, matrix, full range


def fitting(metadata: Metadata, kind: str, is_gray: bool) -> tuple[Metadata, tuple[str, ...]]:
    """Returns the metadata that a format supports, and the names of the rest.

    Args:
        metadata: The metadata to write.
        kind: One of the values of `formats.FORMATS`.
        is_gray: Whether the image is gray. A color profile made for gray needs a gray image.
    """
    levels = ()
    if kind == "PNG":
        metadata = _with_fallback(metadata, is_gray)
    else:
        levels = (HDR_LEVELS,) if _HDR_CHUNKS & metadata.png_color.keys() else ()
        metadata = _with_profile(metadata, kind, is_gray)
    others = (*metadata.others, *levels)
    lost = [key for key in _NAMES if getattr(metadata, key) and not _holds(kind, key, metadata)]
    empty, names = Metadata(), [_NAMES[key] for key in lost]
    if not is_gray and "icc_profile" not in lost and is_gray_profile(metadata.icc_profile):
        lost, names = [*lost, "icc_profile"], [*names, "the color profile, which is for gray"]
    kept = metadata.replace(others=(), **{key: getattr(empty, key) for key in lost})
    return kept, (*names, *others)


def _holds(kind: str, key: str, metadata: Metadata) -> bool:
    if key not in _HELD[kind] or (kind == "JPEG" and _is_too_long(metadata, key)):
        return False
    found = codes(metadata.png_color)
    if kind == "JXL" and key == "png_color" and found is not None:
        return can_write_codes(*found)
    return True


def _is_too_long(metadata: Metadata, key: str) -> bool:
    longest = _LONGEST_IN_JPEG.get(key)
    return longest is not None and len(getattr(metadata, key)) > longest


def _with_fallback(metadata: Metadata, is_gray: bool) -> Metadata:
    """Adds a color profile to a PNG with CICP, for programs that do not read CICP."""
    found = codes(metadata.png_color)
    if metadata.icc_profile or found is None or metadata.png_color[b"cICP"] in _SRGB_CODES:
        return metadata
    return metadata.replace(icc_profile=profile_of(*found, is_gray))


def _with_profile(metadata: Metadata, kind: str, is_gray: bool) -> Metadata:
    """Replaces color chunks that the format cannot store by an equivalent color profile."""
    color = metadata.png_color
    if not color or color.get(b"cICP") in _SRGB_CODES:
        return metadata.replace(png_color={})
    if (found := codes(color)) is not None:  # takes precedence over a profile
        if kind == "HEIC" or (kind == "JXL" and can_write_codes(*found)):
            return metadata.replace(png_color={b"cICP": color[b"cICP"]}, icc_profile=None)
        profile = profile_of(*found, is_gray)
        if profile is None:
            return metadata  # HDR has no equivalent; the caller adds a note
        return metadata.replace(png_color={}, icc_profile=profile)
    if metadata.icc_profile or b"sRGB" in color:  # these take precedence
        return metadata.replace(png_color={})
    try:
        return metadata.replace(png_color={}, icc_profile=_profile(color, is_gray))
    except imagecodecs.CmsError:  # the primaries are no triangle
        usable = {key: value for key, value in color.items() if key != b"cHRM"}
        return metadata.replace(
            png_color={},
            icc_profile=_profile(usable, is_gray),
            others=(*metadata.others, _UNUSABLE_PRIMARIES),
        )


def _profile(color: Mapping[bytes, bytes], is_gray: bool) -> bytes | None:
    """Returns the profile that gAMA and cHRM describe, or None for sRGB or missing chunks."""
    gamma, points = _SRGB_GAMMA, _SRGB_PRIMARIES
    if len(color.get(b"gAMA", b"")) == 4:
        (gamma,) = struct.unpack(">I", color[b"gAMA"])
    if len(color.get(b"cHRM", b"")) == 32 and not is_gray:
        points = struct.unpack(">8I", color[b"cHRM"])
    is_srgb = abs(gamma - _SRGB_GAMMA) < 100 and _are_close(points, _SRGB_PRIMARIES)
    if is_srgb or not gamma:
        return None
    exponent = 100_000 / gamma
    if is_gray:
        return imagecodecs.cms_profile("gray", gamma=exponent)
    white, *primaries = (
        [x / 1e5, y / 1e5, 1] for x, y in zip(points[::2], points[1::2], strict=True)
    )
    primaries = [value for point in primaries for value in point]
    return imagecodecs.cms_profile("rgb", whitepoint=white, primaries=primaries, gamma=exponent)


def _are_close(first: Sequence[int], second: Sequence[int]) -> bool:
    return all(abs(a - b) < 100 for a, b in zip(first, second, strict=True))


def is_gray_profile(icc_profile: bytes | None) -> bool:
    """Returns whether a color profile is for gray images."""
    return icc_profile is not None and icc_profile[16:20] == b"GRAY"
