"""Edits EXIF in place, so that maker notes and other data with file offsets stay valid."""

import struct
from collections.abc import Mapping
from typing import NamedTuple

from PIL.ExifTags import IFD, Base

_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
BIG_TIFF = (b"II+\0", b"MM\0+")
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", *BIG_TIFF)
_SHORT, _LONG = 3, 4
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_ENTRY = 12
# Pairs of tags, one for each axis.
_AXES = ((256, 257), (282, 283), (40962, 40963), (41486, 41487))
# Descriptions in which programs record the array layout of one file.
_MACHINE_MADE = (b'{"shape":', b"ImageJ=", b"SCANIMAGE", b"state.", b"<MetaData", b"SI.")


class ExifError(ValueError):
    """EXIF is unusable; the message gives the reason."""


class UprightExif(NamedTuple):
    """EXIF after its orientation was reset.

    Attributes:
        orientation: The original orientation, 1 to 8.
        exif: The stream with orientation 1 and without a thumbnail. Width and height values are
            swapped if the image is rotated by 90 degrees.
        notes: One sentence for each thing that was left out.
    """

    orientation: int
    exif: bytes
    notes: tuple[str, ...]


def is_machine_made(description: bytes) -> bool:
    """Returns whether a TIFF description is about the pixel layout of the file."""
    start = description.lstrip()[:2000]
    return start.startswith(_MACHINE_MADE) or (start.startswith(b"<") and b"<OME" in start)


def byte_order(exif: bytes) -> str:
    """Returns the byte order as in `struct`: "<" or ">".

    Raises:
        ExifError: The stream has no TIFF header.
    """
    if exif[:4] in BIG_TIFF:
        raise ExifError("it has a BigTIFF header")
    if exif[:4] not in _BYTE_ORDERS or len(exif) < 8:
        raise ExifError("it is damaged")
    return _BYTE_ORDERS[exif[:4]]


def first_directory(exif: bytes) -> dict[int, bytes]:
    """Returns the entries of the first directory by tag, 12 bytes each.

    Values of more than 4 bytes are not part of an entry; it contains their offset.

    Raises:
        ExifError: The stream is damaged.
    """
    order = byte_order(exif)
    (start,) = struct.unpack_from(order + "I", exif, 4)
    return {tag: exif[at : at + _ENTRY] for tag, at in _entries(exif, order, start).items()}


def upright(exif: bytes) -> UprightExif:
    """Resets the orientation, removes the thumbnail and swaps axes if needed.

    The thumbnail would show the original pixels.

    Raises:
        ExifError: The stream is damaged or is not EXIF.
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
            notes = ("the description of the input file's pixel layout is left out",)
    _end_directory(patched, order, start)
    return UprightExif(orientation, bytes(patched), notes)


def without_orientation(exif: bytes) -> bytes:
    """Removes the orientation in place.

    Raises:
        ExifError: The stream is damaged or is not EXIF.
    """
    order, patched = byte_order(exif), bytearray(exif)
    (start,) = struct.unpack_from(order + "I", exif, 4)
    entries = _entries(exif, order, start)
    if Base.Orientation in entries:
        _remove(patched, order, start, entries[Base.Orientation])
        _end_directory(patched, order, start)
    return bytes(patched)


def _end_directory(exif: bytearray, order: str, start: int) -> None:
    """Makes a directory the last one."""
    (count,) = struct.unpack_from(order + "H", exif, start)
    end = start + 2 + _ENTRY * count
    exif[end : end + 4] = bytes(len(exif[end : end + 4]))


def _entries(exif: bytes, order: str, start: int) -> Mapping[int, int]:
    """Returns the offsets of a directory's entries by tag."""
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
    """Removes an entry from a directory and moves the following entries up."""
    (count,) = struct.unpack_from(order + "H", exif, start)
    end = start + 2 + _ENTRY * count
    exif[at : end - _ENTRY] = exif[at + _ENTRY : end]
    struct.pack_into(order + "H", exif, start, count - 1)
