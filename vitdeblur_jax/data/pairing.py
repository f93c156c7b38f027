"""Pairs two lists of file names by one rule.

The rule compares the names of two folders without their extensions:

1. The comparison ignores case and separators (space, `_`, `-`, `.`) and compares numbers as
   integers: `IMG_07` equals `img-7`.
2. Equal lists are paired directly. Otherwise the rule removes the prefix and the suffix that all
   names of one side share. It removes as little as possible so that some names become equal, and
   never a part of a number. It pairs `7_blur` with `7`, `img7` with `gt_07`, and `2023_7` with `7`.
3. Names without an equal name on the other side are reported as unpaired. They are not paired with
   another name.
4. The rule rejects contradictory numbers. These are removed numbers that may count the same thing
   as a number of the other side: numbers after the same word (`cam1_7` and `cam2_7`, `s1_2` and
   `s2`), numbers without a word that equal a number of the other side (`1_2`, with `2` and `1`),
   and numbers without a word on both sides (`2023_7` and `2024_7`). It also rejects names that can
   be paired in two ways, and names of one side that differ only in case, separators or zero
   padding.
5. If the sides have equal counts but share no name and no varying number or word, they are paired
   in natural order. Callers must report such pairs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from vitdeblur_jax.data.name_parts import Name, Numbers, Units, by_character, parse_names
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.natural_order import natural_key

_Matches = dict[str, str]


@dataclass(frozen=True)
class Pairing:
    """The pairs of two lists of names.

    Attributes:
        pairs: (left, right), in the natural order of the left names.
        by: How they were paired, "name" or "order".
        unpaired: The names of both lists without a partner, in natural order.
    """

    pairs: tuple[tuple[str, str], ...]
    by: str
    unpaired: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Side:
    """The names of one list, and the lengths in units of their shared prefix and suffix."""

    names: tuple[Name, ...]
    prefix: int
    suffix: int


@dataclass(frozen=True)
class _Reading:
    """One way to remove shared prefixes and suffixes.

    Attributes:
        kept: The number of units that stay: of the shared prefix on the left and on the right, then
            of the shared suffix on the left and on the right. One of each two is 0.
        matches: The pairs of names that are equal after the removal, from left to right.
    """

    kept: tuple[int, int, int, int]
    matches: _Matches

    def removes_more_than(self, other: "_Reading") -> bool:
        """Returns whether the other reading keeps everything that this one keeps, and more."""
        return self.kept != other.kept and all(map(int.__le__, self.kept, other.kept))


def pair_names(left: Sequence[str], right: Sequence[str]) -> Pairing:
    """Pairs the names of two folders by the rule in this module's docstring.

    Args:
        left: Names without extensions, without duplicates, in any order.
        right: Like `left`.

    Raises:
        UserError: The names contradict each other or can be paired in two ways.
    """
    left, right = sorted(left, key=natural_key), sorted(right, key=natural_key)
    if left == right:
        return Pairing(tuple(zip(left, right, strict=True)), "name")
    # Compare whole words first, then characters. Otherwise "a_blur" could be paired with "ab".
    names = parse_names(left), parse_names(right)
    matches = _match(*names) or _match(*map(by_character, names))
    if not matches and len(left) == len(right) and not _share_something(*names):
        return pair_in_order(left, right)
    pairs = tuple((name, matches[name]) for name in left if name in matches)
    partners = set(matches.values())
    unpaired = [name for name in left if name not in matches]
    unpaired += [name for name in right if name not in partners]
    return Pairing(pairs, "name", tuple(sorted(unpaired, key=natural_key)))


def pair_in_order(left: Sequence[str], right: Sequence[str]) -> Pairing:
    """Pairs two lists of equal length in natural order."""
    left, right = sorted(left, key=natural_key), sorted(right, key=natural_key)
    return Pairing(tuple(zip(left, right, strict=True)), "order")


def _match(left: Sequence[Name], right: Sequence[Name]) -> _Matches:
    """Returns the matches by name, from left to right.

    Raises:
        UserError: The names contradict each other or can be paired in two ways.
    """
    if len(left) == 1 or len(right) == 1:
        return _match_of_one(left, right)
    sides = _sides(left, right)
    readings = list(_readings(*sides))
    decisive = [r for r in readings if not any(map(r.removes_more_than, readings))]
    if not decisive:
        return {}
    best = max(decisive, key=lambda reading: len(reading.matches))
    for other in decisive:
        for name, partner in other.matches.items():
            if best.matches.get(name) != partner:
                raise UserError(
                    "the names can be paired in two ways, "
                    f"{name} with {partner} or {best.matches.get(name, 'none')}; rename one side"
                )
    _refuse_contradictions(best, *sides)
    return best.matches


def _match_of_one(left: Sequence[Name], right: Sequence[Name]) -> _Matches:
    """Returns the match if one side has a single name, whose prefix and suffix are unknown.

    The name matches an equal name. If the other side has one name as well, it also matches if both
    have the same numbers, or if one name is the other one with words before or after it.
    """
    equal = {one.text: other.text for one in left for other in right if one.units == other.units}
    if equal or len(left) != len(right):
        return equal
    rests = [side.names[0] for side in _sides(left, right)]
    numbers = [[unit for unit in name.units if isinstance(unit, int)] for name in (*left, *right)]
    has_more_words = not all(rest.units for rest in rests) and numbers[0] == numbers[1]
    if has_more_words or numbers[0] == numbers[1] != []:
        return {left[0].text: right[0].text}
    return {}


def _sides(left: Sequence[Name], right: Sequence[Name]) -> tuple[_Side, _Side]:
    """Removes the prefix and suffix that all names of both sides share."""
    both = _side((*left, *right))
    names = [name.part(both.prefix, len(name.units) - both.suffix) for name in both.names]
    return _side(names[: len(left)]), _side(names[len(left) :])


def _side(names: Sequence[Name]) -> _Side:
    prefix = _shared_length([name.units for name in names])
    backwards = [name.units[prefix:][::-1] for name in names]
    return _Side(tuple(names), prefix, _shared_length(backwards))


def _shared_length(rows: Sequence[Units]) -> int:
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False)))


def _readings(left: _Side, right: _Side) -> Iterator[_Reading]:
    """Yields each way to remove shared prefixes and suffixes that matches some names."""
    suffixes = list(_kept_ends(left, right, at_end=True))
    for prefix in _kept_ends(left, right, at_end=False):
        for suffix in suffixes:
            partners = {_rest(name, right, prefix[1], suffix[1]): name.text for name in right.names}
            rests = ((n.text, _rest(n, left, prefix[0], suffix[0])) for n in left.names)
            matches = {text: partners[rest] for text, rest in rests if rest in partners}
            if matches:
                yield _Reading((*prefix, *suffix), matches)


def _kept_ends(left: _Side, right: _Side, at_end: bool) -> Iterator[tuple[int, int]]:
    """Yields the possible lengths of the kept prefix or suffix on the left and on the right.

    Keeping a part on both sides is redundant: equal parts cancel, and different parts never match.
    """
    yield 0, 0
    turn = -1 if at_end else 1
    (ours, size), (theirs, other_size) = (
        ([name.units[::turn] for name in side.names], side.suffix if at_end else side.prefix)
        for side in (left, right)
    )
    for count in _continued(ours[0][:size], theirs, other_size):
        yield count, 0
    for count in _continued(theirs[0][:other_size], ours, size):
        yield 0, count


def _continued(shared: Units, others: Sequence[Units], start: int) -> Iterator[int]:
    """Yields each n for which some of the others has the last n shared units at `start`."""
    for count in range(1, len(shared) + 1):
        if any(other[start : start + count] == shared[-count:] for other in others):
            yield count


def _rest(name: Name, side: _Side, kept_prefix: int, kept_suffix: int) -> Units:
    start, stop = _bounds(name, side, kept_prefix, kept_suffix)
    return name.units[start:stop]


def _bounds(name: Name, side: _Side, kept_prefix: int, kept_suffix: int) -> tuple[int, int]:
    return side.prefix - kept_prefix, len(name.units) - side.suffix + kept_suffix


def _refuse_contradictions(reading: _Reading, left: _Side, right: _Side) -> None:
    """Raises `UserError` if a removed number may count the same thing as on the other side."""
    removed, kept = zip(*_removed_and_kept(reading, left, right), strict=True)
    for numbers, others, other_kept in zip(removed, removed[::-1], kept[::-1], strict=True):
        words = {word for word, _ in others | other_kept}
        for word, number in sorted(numbers):
            if word in (words if word else {word for word, _ in others}) or (
                not word and (word, number) in other_kept
            ):
                one, other = next(iter(reading.matches.items()))
                raise UserError(
                    f"the numbers of {one} and {other} contradict each other: they match only "
                    f"without {number}, which may be significant; rename the files of one side"
                )


def _removed_and_kept(
    reading: _Reading, left: _Side, right: _Side
) -> Iterator[tuple[Numbers, Numbers]]:
    """Yields the removed and the kept numbers of each side.

    Removed units count as kept if both sides have the same units next to the kept ones.
    """
    first = left.names[0], right.names[0]
    places = [
        _bounds(name, side, *reading.kept[i::2])
        for i, (name, side) in enumerate(zip(first, (left, right), strict=True))
    ]
    before = [name.units[:start][::-1] for name, (start, _) in zip(first, places, strict=True)]
    behind = [name.units[stop:] for name, (_, stop) in zip(first, places, strict=True)]
    more = _shared_length(before), _shared_length(behind)
    for i, side in enumerate((left, right)):
        removed, kept = set(), set()
        for name in side.names:
            start, stop = _bounds(name, side, *reading.kept[i::2])
            start, stop = start - more[0], stop + more[1]
            removed |= name.numbers(0, start) | name.numbers(stop)
            kept |= name.numbers(start, stop)
        yield removed, kept


def _share_something(left: Sequence[Name], right: Sequence[Name]) -> bool:
    """Returns whether a number or word that varies on one side occurs on the other side."""
    units = [[set(name.units) for name in side.names] for side in _sides(left, right)]
    found = [set().union(*side) for side in units]
    varying = [every - set.intersection(*side) for every, side in zip(found, units, strict=True)]
    return bool(varying[0] & found[1] or varying[1] & found[0])
