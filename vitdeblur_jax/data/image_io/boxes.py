"""Boxes of ISO base media files (ISO/IEC 14496-12): HEIC, AVIF, JPEG XL and Canon's CR3."""

import struct
from collections.abc import Iterator

_CONTAINERS_OF_AVIF = (b"avif", b"avis")
_BRANDS_OF_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_MOST_BRANDS = 64


def kind_of_container(head: bytes) -> str | None:
    """Returns AVIF, HEIC or CR3 from the start of a file, or None for anything else."""
    if head[4:8] != b"ftyp":
        return None
    size = min(int.from_bytes(head[:4], "big"), 16 + 4 * _MOST_BRANDS)
    compatible = head[16:size]
    brands = [head[8:12], *(compatible[at : at + 4] for at in range(0, len(compatible), 4))]
    for brand in brands:  # the first that is specific
        if brand in _CONTAINERS_OF_AVIF:
            return "AVIF"
        if brand in _BRANDS_OF_HEIC:
            return "HEIC"
        if brand == b"crx ":
            return "CR3"
    return None


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """Yields the type, the start and the end of the content of each box; stop at a damaged one."""
    at, end = start, len(data) if end is None else end
    while at + 8 <= end:
        size, head = int.from_bytes(data[at : at + 4], "big"), 8
        kind = data[at + 4 : at + 8]
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        size = size or end - at  # 0: up to the end
        if size < head or at + size > end:
            return
        yield kind, at + head, at + size
        at += size


def find(data: bytes, *path: bytes, start: int = 0, end: int | None = None) -> bytes | None:
    """Returns the content of the first box at a path of types, for example meta, iprp, ipco."""
    for kind, first, last in boxes(data, start, end):
        if kind == path[0]:
            if len(path) == 1:
                return data[first:last]
            first += 4 * (kind == b"meta")  # its version and flags
            return find(data, *path[1:], start=first, end=last)
    return None


def primary_properties(data: bytes) -> list[tuple[bytes, bytes]]:
    """Returns the type and content of the properties of the primary item of a HEIF file."""
    pitm, ipco = find(data, b"meta", b"pitm"), find(data, b"meta", b"iprp", b"ipco")
    ipma = find(data, b"meta", b"iprp", b"ipma")
    if not pitm or not ipco or not ipma:
        return []
    all_properties = [(kind, ipco[first:last]) for kind, first, last in boxes(ipco)]
    item = int.from_bytes(pitm[4:], "big")
    try:
        indices = _associations(ipma).get(item, ())
    except (struct.error, IndexError):
        return []
    return [all_properties[i - 1] for i in indices if 1 <= i <= len(all_properties)]


def _associations(ipma: bytes) -> dict[int, list[int]]:
    """Returns the one-based indices of each item's properties."""
    version, is_wide = ipma[0], bool(ipma[3] & 1)
    (count,) = struct.unpack_from(">I", ipma, 4)
    at, found = 8, {}
    for _ in range(count):
        (item,) = struct.unpack_from(">I" if version else ">H", ipma, at)
        at += 4 if version else 2
        number, at = ipma[at], at + 1
        step = 2 if is_wide else 1
        entries = (ipma[at + step * i : at + step * (i + 1)] for i in range(number))
        mask = 0x7FFF if is_wide else 0x7F  # without the bit for "essential"
        found.setdefault(item, []).extend(int.from_bytes(e, "big") & mask for e in entries)
        at += step * number
    return found
