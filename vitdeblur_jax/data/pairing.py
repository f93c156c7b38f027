"""Which name goes with which: the one rule for pairing two lists of file names.

The rule, for the names of two folders without their endings:

1. Names are compared without case and separators (space, `_`, `-`, `.`), numbers as integers:
   `IMG_07` equals `img-7`.
2. If the two lists are equal, they are paired as they are. Otherwise what all names of one side
   have in common at their beginning and at their end is removed, as little of it as leaves any two
   names equal. A number is removed whole or not at all. `7_blur` goes with `7`, `img7` with
   `gt_07`, `2023_7` with `7`.
3. Names left without an equal are reported as unpaired. No name is shifted to another partner.
4. Numbers contradict each other, and the lists are refused, when a number had to be removed that
   may count something the other side counts too: after the same word (`cam1_7` and `cam2_7`,
   `s1_2` and `s2`), or after no word and equal to one of the other side's numbers (`1_2` and `2`
   beside `1`), or where such numbers are removed from both sides (`2023_7` and `2024_7`). Names
   that can be matched in two ways, and names of one side that differ only in case, separators or
   zero padding, are refused too.
5. Only where no name and no varying number or word of one side occurs on the other, and the counts
   are equal, the natural order decides. Whoever uses such pairs has to say so.
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
        by: "name" or "order".
        unpaired: The names of both lists without a partner, in natural order.
    """

    pairs: tuple[tuple[str, str], ...]
    by: str
    unpaired: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Side:
    """The names of one list, and how many units at both ends all of them share."""

    names: tuple[Name, ...]
    prefix: int
    suffix: int


@dataclass(frozen=True)
class _Reading:
    """A way to remove shared ends.

    Attributes:
        kept: How many units of the shared prefix stay on the left and on the right, one of them 0,
            and how many of the shared suffix.
        matches: The names whose rests are equal, from left to right.
    """

    kept: tuple[int, int, int, int]
    matches: _Matches

    def removes_more_than(self, other: "_Reading") -> bool:
        """Tell whether the other reading keeps all that this one does, and more."""
        return self.kept != other.kept and all(map(int.__le__, self.kept, other.kept))


def pair_names(left: Sequence[str], right: Sequence[str]) -> Pairing:
    """Pair the names of two folders; this module's docstring has the rule.

    Args:
        left: Names without their endings, none twice, in any order.
        right: As `left`.

    Raises:
        UserError: The names contradict each other, or can be matched in two ways.
    """
    left, right = sorted(left, key=natural_key), sorted(right, key=natural_key)
    if left == right:
        return Pairing(tuple(zip(left, right, strict=True)), "name")
    # Whole words first: "a_blur" goes with "a", though "ab" may be there and "blur" begins with b.
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
    """Pair as many names of one list as of the other by their natural order."""
    left, right = sorted(left, key=natural_key), sorted(right, key=natural_key)
    return Pairing(tuple(zip(left, right, strict=True)), "order")


def _match(left: Sequence[Name], right: Sequence[Name]) -> _Matches:
    """Return the matches by name, from left to right.

    Raises:
        UserError: The names contradict each other, or can be matched in two ways.
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
                    "the names can be matched in two ways, "
                    f"{name} with {partner} or {best.matches.get(name, 'none')}; rename one side"
                )
    _refuse_contradictions(best, *sides)
    return best.matches


def _match_of_one(left: Sequence[Name], right: Sequence[Name]) -> _Matches:
    """Match where one side is a single name, which shares its ends with no other.

    It goes with its equal; or with the only one there, if that has the same numbers, or is the same
    but for words before or behind it.
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
    """Remove what all names of both sides share at their ends, which tells nothing."""
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
    """Yield the ways to remove shared ends by which any names match."""
    suffixes = list(_kept_ends(left, right, at_end=True))
    for prefix in _kept_ends(left, right, at_end=False):
        for suffix in suffixes:
            partners = {_rest(name, right, prefix[1], suffix[1]): name.text for name in right.names}
            rests = ((n.text, _rest(n, left, prefix[0], suffix[0])) for n in left.names)
            matches = {text: partners[rest] for text, rest in rests if rest in partners}
            if matches:
                yield _Reading((*prefix, *suffix), matches)


def _kept_ends(left: _Side, right: _Side, at_end: bool) -> Iterator[tuple[int, int]]:
    """Yield how much of the shared prefix, or suffix, to keep on the left and on the right.

    To keep some on both sides adds nothing: what is equal cancels, and what differs never matches.
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
    """Yield how many of the last shared units any of the others has from `start` on."""
    for count in range(1, len(shared) + 1):
        if any(other[start : start + count] == shared[-count:] for other in others):
            yield count


def _rest(name: Name, side: _Side, kept_prefix: int, kept_suffix: int) -> Units:
    start, stop = _bounds(name, side, kept_prefix, kept_suffix)
    return name.units[start:stop]


def _bounds(name: Name, side: _Side, kept_prefix: int, kept_suffix: int) -> tuple[int, int]:
    return side.prefix - kept_prefix, len(name.units) - side.suffix + kept_suffix


def _refuse_contradictions(reading: _Reading, left: _Side, right: _Side) -> None:
    """Refuse matches for which a number was removed that the other side may count, too."""
    removed, kept = zip(*_removed_and_kept(reading, left, right), strict=True)
    for numbers, others, other_kept in zip(removed, removed[::-1], kept[::-1], strict=True):
        words = {word for word, _ in others | other_kept}
        for word, number in sorted(numbers):
            if word in (words if word else {word for word, _ in others}) or (
                not word and (word, number) in other_kept
            ):
                one, other = next(iter(reading.matches.items()))
                raise UserError(
                    f"the numbers of {one} and {other} contradict each other: without {number} "
                    "they would match, but it may count something; rename the files of one side"
                )


def _removed_and_kept(
    reading: _Reading, left: _Side, right: _Side
) -> Iterator[tuple[Numbers, Numbers]]:
    """Yield for each side its numbers that were removed, and those that were kept.

    What stands on both sides right before or behind the rests counts as kept.
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
    """Tell whether a number or word that varies on one side occurs on the other."""
    units = [[set(name.units) for name in side.names] for side in _sides(left, right)]
    found = [set().union(*side) for side in units]
    varying = [every - set.intersection(*side) for every, side in zip(found, units, strict=True)]
    return bool(varying[0] & found[1] or varying[1] & found[0])
