"""The header of a JPEG XL codestream (ISO/IEC 18181-1, annex D): size, samples and colors."""

from typing import NamedTuple

CODESTREAM = b"\xff\x0a"
_LONGEST = 1024  # bytes to look for the header in
_PLAIN_TAIL = 0b100
_RELATIVE = 1  # rendering intent
_RATIOS = {1: (1, 1), 2: (6, 5), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
_SIDES = ((1, 9), (1, 13), (1, 18), (1, 30))  # added constants and bits of a number
_PREVIEW_EIGHTHS = ((16, 0), (32, 0), (1, 5), (33, 9))
_PREVIEW_SIDES = ((1, 6), (65, 8), (321, 10), (1345, 12))
_ENUM = ((0, 0), (1, 0), (2, 4), (18, 6))
_COORDINATES = ((0, 19), (524_288, 19), (1_048_576, 20), (2_097_152, 21))  # millionths
_GRAY, _XYB = 1, 2  # color spaces
_CUSTOM = 2
_ALPHA, _SPOT, _BLACK, _FILTER = 0, 2, 4, 5  # types of extra channels
_WHITE_POINTS = {1: (0.3127, 0.3290), 10: (1 / 3, 1 / 3), 11: (0.314, 0.351)}
_PRIMARIES = {
    1: (0.64, 0.33, 0.30, 0.60, 0.15, 0.06),
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}


# Primaries, white point and transfer function of JPEG XL by the codes of ITU-T H.273.
_WRITTEN_PRIMARIES = {1: (1, 1), 9: (9, 1), 11: (11, 11), 12: (11, 1)}
_WRITTEN_TRANSFERS = (1, 8, 13, 16, 17, 18)


class Colors(NamedTuple):
    """The colors of an image.

    Attributes:
        has_icc: Whether an ICC profile defines the colors; then the rest is meaningless.
        is_gray: Whether there is one color channel.
        points: CIE xy of the white point and the red, green and blue primaries.
        primaries: The code of the primaries: 1 (sRGB), 2 (custom), 9 (BT.2020) or 11 (P3).
        white: The code of the white point: 1 (D65), 2 (custom), 10 (E) or 11 (DCI).
        gamma: The exponent of the encoding, or None if `transfer` is used.
        transfer: The code of the transfer function in ITU-T H.273.
    """

    has_icc: bool = False
    is_gray: bool = False
    points: tuple[float, ...] = (*_WHITE_POINTS[1], *_PRIMARIES[1])
    primaries: int = 1
    white: int = 1
    gamma: float | None = None
    transfer: int = 13


class Header(NamedTuple):
    """The header of a codestream; the size is before the orientation is applied.

    Attributes:
        width: In pixels.
        height: In pixels.
        orientation: As in EXIF, 1 to 8.
        is_animated: Whether there may be several frames.
        depth: Bits per sample.
        is_float: Whether samples are floating-point numbers.
        extra: The types of the extra channels; 0 is alpha, 4 is black.
        is_premultiplied: Whether the colors are multiplied by alpha.
        is_xyb: Whether the colors are stored in XYB, and converted when they are decoded.
        colors: The colors of the decoded samples.
        has_defaults: Whether the header says nothing but the size.
    """

    width: int
    height: int
    orientation: int = 1
    is_animated: bool = False
    depth: int = 8
    is_float: bool = False
    extra: tuple[int, ...] = ()
    is_premultiplied: bool = False
    is_xyb: bool = True
    colors: Colors = Colors()
    has_defaults: bool = False


class _Bits:
    """Reads numbers from bytes, the lowest bit first. Bits after the end are 0."""

    def __init__(self, data: bytes) -> None:
        self._bits = int.from_bytes(data, "little")
        self.position = 0

    def take(self, count: int) -> int:
        value = (self._bits >> self.position) & ((1 << count) - 1)
        self.position += count
        return value

    def choice(self, *forms: tuple[int, int]) -> int:
        """Returns a number whose constant and count of bits are one of four."""
        constant, count = forms[self.take(2)]
        return constant + self.take(count)

    def signed(self) -> int:
        value = self.choice(*_COORDINATES)
        return -(value + 1) // 2 if value & 1 else value // 2


def read_header(codestream: bytes) -> Header:
    """Returns the header of a codestream, which starts with `CODESTREAM`."""
    bits = _Bits(codestream[2:_LONGEST])
    header = _before_colors(bits)
    return header if header.has_defaults else header._replace(colors=_colors(bits))


def can_write_codes(primaries: int, transfer: int) -> bool:
    """Returns whether `with_codes` can write these codes of ITU-T H.273."""
    return primaries in _WRITTEN_PRIMARIES and transfer in _WRITTEN_TRANSFERS


def with_codes(codestream: bytes, primaries: int, transfer: int) -> bytes:
    """Returns a losslessly coded image with other colors in its header; the samples stay.

    Args:
        codestream: A codestream without XYB, ICC profile, extra header fields or extensions.
        primaries: Code of the primaries in ITU-T H.273.
        transfer: Code of the transfer function in ITU-T H.273.
    """
    bits = _Bits(codestream[2:_LONGEST])
    header = _before_colors(bits)
    start = bits.position
    old = _colors(bits)
    tail = bits.take(3)  # no extensions, the default transform
    if header.has_defaults or header.is_xyb or old.has_icc or tail != _PLAIN_TAIL:
        raise RuntimeError("the JPEG XL encoder wrote an unexpected header")
    written = int.from_bytes(codestream[2:_LONGEST], "little") & ((1 << start) - 1)
    at, old_end = start, bits.position
    for value, count in _coded_colors(primaries, transfer, old.is_gray):
        written |= value << at
        at += count
    written |= _PLAIN_TAIL << at
    size = -(-(at + 3) // 8)
    return CODESTREAM + written.to_bytes(size, "little") + codestream[2 + -(-old_end // 8) :]


def _coded_colors(primaries: int, transfer: int, is_gray: bool) -> list[tuple[int, int]]:
    """Returns the values and counts of bits of a color encoding."""
    chosen, white = _WRITTEN_PRIMARIES[primaries]
    enumerated = [int(is_gray), white, *([] if is_gray else [chosen])]
    coded = [(0, 1), (0, 1), *map(_coded_enum, enumerated)]
    return [*coded, (0, 1), _coded_enum(transfer), _coded_enum(_RELATIVE)]


def _coded_enum(value: int) -> tuple[int, int]:
    selector = max(i for i, (constant, _) in enumerate(_ENUM) if constant <= value)
    constant, count = _ENUM[selector]
    return selector | (value - constant) << 2, 2 + count


def _before_colors(bits: _Bits) -> Header:
    width, height = _size(bits)
    if bits.take(1):  # all defaults
        return Header(width, height, has_defaults=True)
    orientation, is_animated = 1, False
    has_more = bits.take(1)
    if has_more:
        orientation = 1 + bits.take(3)
        if bits.take(1):
            _size(bits)  # the intrinsic size
        if bits.take(1):
            _preview(bits)
        is_animated = bool(bits.take(1))
        if is_animated:
            _animation(bits)
    depth, is_float = _depth(bits)
    bits.take(1)  # whether 16-bit buffers are enough
    count = bits.choice((0, 0), (1, 0), (2, 4), (1, 12))
    channels = [_extra_channel(bits) for _ in range(count)]
    is_xyb = bool(bits.take(1))
    return Header(
        width,
        height,
        orientation,
        is_animated,
        depth,
        is_float,
        tuple(kind for kind, _ in channels),
        any(is_associated for _, is_associated in channels),
        is_xyb,
    )


def _size(bits: _Bits) -> tuple[int, int]:
    is_small = bits.take(1)
    height = 8 * (bits.take(5) + 1) if is_small else bits.choice(*_SIDES)
    if ratio := bits.take(3):
        wide, high = _RATIOS[ratio]
        return height * wide // high, height
    return (8 * (bits.take(5) + 1) if is_small else bits.choice(*_SIDES)), height


def _preview(bits: _Bits) -> None:
    forms = _PREVIEW_EIGHTHS if bits.take(1) else _PREVIEW_SIDES
    bits.choice(*forms)
    if not bits.take(3):
        bits.choice(*forms)


def _animation(bits: _Bits) -> None:
    bits.choice((100, 0), (1000, 0), (1, 10), (1, 30))
    bits.choice((1, 0), (1001, 0), (1, 8), (1, 10))
    bits.choice((0, 0), (0, 3), (0, 16), (0, 32))
    bits.take(1)


def _depth(bits: _Bits) -> tuple[int, bool]:
    if not bits.take(1):
        return bits.choice((8, 0), (10, 0), (12, 0), (1, 6)), False
    depth = bits.choice((32, 0), (16, 0), (24, 0), (1, 6))
    bits.take(4)
    return depth, True


def _extra_channel(bits: _Bits) -> tuple[int, bool]:
    """Returns the type of an extra channel, and whether it is alpha that colors contain."""
    if bits.take(1):
        return _ALPHA, False
    kind = bits.choice(*_ENUM)
    _depth(bits)
    bits.choice((0, 0), (3, 0), (4, 0), (1, 3))
    bits.take(8 * bits.choice((0, 0), (0, 4), (16, 5), (48, 10)))  # the name
    if kind == _SPOT:
        bits.take(4 * 16)
    if kind == _FILTER:
        bits.choice((1, 0), (0, 2), (3, 4), (19, 8))
    return kind, kind == _ALPHA and bool(bits.take(1))


def _colors(bits: _Bits) -> Colors:
    if bits.take(1):
        return Colors()
    has_icc, space = bool(bits.take(1)), bits.choice(*_ENUM)
    if has_icc or space == _XYB:
        return Colors(has_icc=True, is_gray=space == _GRAY)
    white = bits.choice(*_ENUM)
    points = _points(bits, 1) if white == _CUSTOM else _WHITE_POINTS.get(white, _WHITE_POINTS[1])
    primaries, more = 1, _PRIMARIES[1]
    if space != _GRAY:
        primaries = bits.choice(*_ENUM)
        more = _points(bits, 3) if primaries == _CUSTOM else _PRIMARIES.get(primaries, more)
    gamma = bits.take(24) / 1e7 if bits.take(1) else None
    transfer = 13 if gamma else bits.choice(*_ENUM)
    bits.choice(*_ENUM)  # the rendering intent
    return Colors(False, space == _GRAY, (*points, *more), primaries, white, gamma, transfer)


def _points(bits: _Bits, count: int) -> tuple[float, ...]:
    return tuple(bits.signed() / 1e6 for _ in range(2 * count))
