"""Natural sort order of names: `2` comes before `10`."""

import re
from collections.abc import Iterable

_NUMBER = re.compile(r"(\d+)")


def natural_key(name: str) -> tuple:
    """Returns a sort key that compares runs of digits as integers and ignores case.

    Names that differ only in case or zero padding keep their lexical order.
    """
    parts = _NUMBER.split(name)
    return tuple(int(p) if i % 2 else p.casefold() for i, p in enumerate(parts)), name


def some(names: Iterable[str]) -> str:
    """Returns the first five names in natural order and the number of the others."""
    names = sorted(names, key=natural_key)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
