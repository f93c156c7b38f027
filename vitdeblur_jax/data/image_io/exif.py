"""EXIF, changed in place: maker notes and whatever else holds positions in it stay right."""

import struct
from collections.abc import Mapping
from typing import NamedTuple

from PIL.ExifTags import IFD, Base

_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
BIG_TIFF = (b"II+\0", b"MM\0+")
_SHORT, _LONG = 3, 4
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_ENTRY = 12
# Pairs of tags, one for each axis.
_AXES = ((256, 257), (282, 283), (40962, 40963), (41486, 41487))
# What programs write about the arrangement of arrays in the file, which does not outlive it.
_MACHINE_MADE = (b'{"shape":', b"ImageJ=", b"SCANIMAGE", b"state.", b"<MetaData", b"SI.")


class ExifError(ValueError):
    """EXIF that cannot be used; the message says why."""


class UprightExif(NamedTuple):
    """EXIF whose orientation has been reset.

    Attributes:
        orientation: What it was, from 1 to 8.
        exif: The same stream with orientation 1, without its thumbnail, axes swapped if turned.
        notes: Sentences on what was left out.
    """

    orientation: int
    exif: bytes
    notes: tuple[str, ...]


def is_machine_made(description: bytes) -> bool:
    """Tell whether a TIFF description describes the arrangement of the file's pixels."""
    start = description.lstrip()[:2000]
    return start.startswith(_MACHINE_MADE) or (start.startswith(b"<") and b"<OME" in start)


def byte_order(exif: bytes) -> str:
    """Return "<" or ">", as `struct` has it.

    Raises:
        ExifError: It does not begin as a TIFF does.
    """
    if exif[:4] in BIG_TIFF:
        raise ExifError("its header is that of a BigTIFF")
    if exif[:4] not in _BYTE_ORDERS or len(exif) < 8:
        raise ExifError("it is damaged")
    return _BYTE_ORDERS[exif[:4]]


def first_directory(exif: bytes) -> dict[int, bytes]:
    """Return the entries of the first directory by tag, 12 bytes each, values still elsewhere.

    Raises:
        ExifError: It is damaged.
    """
    order = byte_order(exif)
    (start,) = struct.unpack_from(order + "I", exif, 4)
    return {tag: exif[at : at + _ENTRY] for tag, at in _entries(exif, order, start).items()}


def upright(exif: bytes) -> UprightExif:
    """Reset the orientation, cut off the thumbnail, which shows the old pixels, and swap axes.

    Raises:
        ExifError: It is damaged, or no EXIF.
    """
    order, patched = byte_order(exif), bytearray(exif)
    (start,) = struct.unpack_from(order + "I", exif, 4)
    entries = _entries(exif, order, start)
    orientation = 1
    if Base.Orientation in entries:
        orientation = _reset_orientation(patched, order, entries[Base.Orientation])
    if orientation > 4:
        for at in (entries, _sub_directory(exif, order, entries)):
            _swap_axes(patched, at)
    notes = ()
    if Base.ImageDescription in entries:
        at = entries[Base.ImageDescription]
        if is_machine_made(_value(exif, order, at)):
            _remove(patched, order, start, at)
            notes = ("the description of the old file's layout is left out",)
    (count,) = struct.unpack_from(order + "H", patched, start)
    end = start + 2 + _ENTRY * count
    patched[end : end + 4] = bytes(len(patched[end : end + 4]))  # no next directory
    return UprightExif(orientation, bytes(patched), notes)


def _entries(exif: bytes, order: str, start: int) -> Mapping[int, int]:
    """Return where the entries of a directory stand, by tag."""
    if start < 8 or start + 2 > len(exif):
        raise ExifError("it is damaged")
    (count,) = struct.unpack_from(order + "H", exif, start)
    places = range(start + 2, start + 2 + _ENTRY * count, _ENTRY)
    if start + 2 + _ENTRY * count > len(exif):
        raise ExifError("it is damaged")
    return {struct.unpack_from(order + "H", exif, at)[0]: at for at in places}


def _sub_directory(exif: bytes, order: str, entries: Mapping[int, int]) -> Mapping[int, int]:
    if IFD.Exif not in entries:
        return {}
    try:
        return _entries(exif, order, *struct.unpack_from(order + "I", exif, entries[IFD.Exif] + 8))
    except ExifError:
        return {}


def _value(exif: bytes, order: str, at: int) -> bytes:
    kind, count = struct.unpack_from(order + "HI", exif, at + 2)
    size = _SIZES.get(kind, 0) * count
    (start,) = struct.unpack_from(order + "I", exif, at + 8) if size > 4 else (at + 8,)
    return exif[start : start + size]


def _reset_orientation(exif: bytearray, order: str, at: int) -> int:
    (kind,) = struct.unpack_from(order + "H", exif, at + 2)
    code = {_SHORT: "H", _LONG: "I"}.get(kind)
    if code is None:
        return 1
    (orientation,) = struct.unpack_from(order + code, exif, at + 8)
    struct.pack_into(order + code, exif, at + 8, 1)
    return orientation if 1 <= orientation <= 8 else 1


def _swap_axes(exif: bytearray, entries: Mapping[int, int]) -> None:
    for pair in _AXES:
        if all(tag in entries for tag in pair):
            first, second = (slice(entries[tag] + 2, entries[tag] + _ENTRY) for tag in pair)
            exif[first], exif[second] = exif[second], exif[first]


def _remove(exif: bytearray, order: str, start: int, at: int) -> None:
    """Take an entry out of a directory; the others move up."""
    (count,) = struct.unpack_from(order + "H", exif, start)
    end = start + 2 + _ENTRY * count
    exif[at : end - _ENTRY] = exif[at + _ENTRY : end]
    struct.pack_into(order + "H", exif, start, count - 1)
