"""The order in which people list names: `2` before `10`."""

import re

_NUMBER = re.compile(r"(\d+)")


def natural_key(name: str) -> tuple:
    """Return a sort key that compares runs of digits as integers and ignores case.

    Names that differ only in case or zero padding keep their lexical order.
    """
    parts = _NUMBER.split(name)
    return tuple(int(p) if i % 2 else p.casefold() for i, p in enumerate(parts)), name
