"""File names in parts: the numbers and words that pairing compares."""

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
    """A name in parts.

    Attributes:
        text: The name itself.
        units: Its numbers, each as one integer, and its words, or the characters of these; no
            separators.
        words: For each unit the word right before it if it is a number, else "".
    """

    text: str
    units: Units
    words: tuple[str, ...]

    def part(self, start: int, stop: int) -> "Name":
        """Return the name with only some of its units."""
        return Name(self.text, self.units[start:stop], self.words[start:stop])

    def numbers(self, start: int = 0, stop: int | None = None) -> Numbers:
        """Return the numbers of some units."""
        units = zip(self.words[start:stop], self.units[start:stop], strict=True)
        return {(word, unit) for word, unit in units if isinstance(unit, int)}


def parse_names(texts: Sequence[str]) -> tuple[Name, ...]:
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
    """Split the words of names into characters."""
    split = []
    for name in names:
        parts = [
            ((unit,), (word,)) if isinstance(unit, int) else (unit, ("",) * len(unit))
            for unit, word in zip(name.units, name.words, strict=True)
        ]
        units, words = (tuple(chain.from_iterable(part[i] for part in parts)) for i in (0, 1))
        split.append(Name(name.text, units, words))
    return tuple(split)
