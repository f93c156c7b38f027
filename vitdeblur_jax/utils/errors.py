"""The one exception that stands for a user's mistake, and what the commands end with."""

import difflib
import struct
from collections.abc import Iterable

CHECKED_AND_WRONG = 1
CANNOT = 2
LOST_OTHERS = 75  # as in sysexits.h: not a mistake, and may go well when tried again
INTERRUPTED = 130


class UserError(ValueError):
    """Bad input, told in one line: what is wrong, where, and how to mend it.

    The entry points print the message without a traceback and exit with status 2.
    """


class ExistsError(UserError):
    """Another process has written the result in the meantime."""


def one_line(error: BaseException) -> str:
    """Returns what an exception says, as one short line, to be part of a `UserError`.

    What Python says of codecs and buffers tells a user nothing, so it is replaced.
    """
    if isinstance(error, UnicodeError):
        return f"bytes that are not {getattr(error, 'encoding', 'valid')} text"
    if isinstance(error, struct.error):
        return "it ends too early"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:200]


def nearest(name: str, names: Iterable[str]) -> str:
    """Returns " (did you mean ...?)" for a misspelt name, or nothing when none comes near."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def known(what: str, name: str, names: Iterable[str]) -> str:
    """Returns the name if it is one of `names`; `what` says in the error of which kind they are.

    Raises:
      UserError: it is none of them; the nearest is named, and all.
    """
    names = list(names)
    if name not in names:
        raise UserError(
            f"unknown {what} {name!r}{nearest(name, names)}; there are {', '.join(names)}"
        )
    return name
