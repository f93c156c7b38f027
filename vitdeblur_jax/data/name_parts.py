"""Splits file names into the numbers and words that pairing compares."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from vitdeblur_jax.utils.errors import UserError

_PARTS = re.compile(r"\d+|[^\d\s_.-]+")  # numbers and words, between separators

Units = tuple[int | str, ...]
Numbers = set[tuple[str, int]]  # each with the word before it


@dataclass(frozen=True)
class Name:
    """A file name in parts.

    Attributes:
        text: The file name.
        units: Its numbers as integers, and its words or their characters, without separators.
        words: For each unit that is a number, the word directly before it, otherwise "".
    """

    text: str
    units: Units
    words: tuple[str, ...]

    def part(self, start: int, stop: int) -> "Name":
        """Returns the name with the units from `start` to `stop`."""
        return Name(self.text, self.units[start:stop], self.words[start:stop])

    def numbers(self, start: int = 0, stop: int | None = None) -> Numbers:
        """Returns the numbers among the units from `start` to `stop`."""
        units = zip(self.words[start:stop], self.units[start:stop], strict=True)
        return {(word, unit) for word, unit in units if isinstance(unit, int)}


def parse_names(texts: Sequence[str]) -> tuple[Name, ...]:
    """Splits file names into parts.

    Raises:
        UserError: Two names differ only in case, separators or zero padding.
    """
    names, seen = tuple(map(_parse, texts)), {}
    for name in names:
        other = seen.setdefault(name.units, name.text)
        if other is not name.text:
            raise UserError(
                f"{other} and {name.text} differ only in case, separators or zero padding; "
                "rename one of them"
            )
    return names


def _parse(text: str) -> Name:
    parts = _PARTS.findall(unicodedata.normalize("NFC", text).casefold())
    units = tuple(int(part) if part.isdecimal() else part for part in parts)
    before = ("", *units)
    words = tuple(
        word if isinstance(unit, int) and isinstance(word, str) else ""
        for word, unit in zip(before, units, strict=False)
    )
    return Name(text, units, words)


def by_character(names: Sequence[Name]) -> tuple[Name, ...]:
    """Returns the names with their words split into characters."""
    split = []
    for name in names:
        parts = [
            ((unit,), (word,)) if isinstance(unit, int) else (unit, ("",) * len(unit))
            for unit, word in zip(name.units, name.words, strict=True)
        ]
        units, words = (tuple(chain.from_iterable(part[i] for part in parts)) for i in (0, 1))
        split.append(Name(name.text, units, words))
    return tuple(split)
