"""`UserError`, the exception for a user's mistake, and the exit statuses of the commands."""

import difflib
import struct
from collections.abc import Iterable

CHECKED_AND_WRONG = 1
CANNOT = 2
LOST_OTHERS = 75  # EX_TEMPFAIL of sysexits.h: a retry may succeed
INTERRUPTED = 130


class UserError(ValueError):
    """Bad input, described in one line: what is wrong, where, and how to fix it.

    The entry points print the message without a traceback and exit with status 2.
    """


class ExistsError(UserError):
    """Another process has written the result in the meantime."""


def one_line(error: BaseException) -> str:
    """Returns an exception's message as one short line, for use in a `UserError`.

    Python's own messages about codecs and buffers do not help a user, so this replaces them.
    """
    if isinstance(error, UnicodeError):
        return f"bytes that are not {getattr(error, 'encoding', 'valid')} text"
    if isinstance(error, struct.error):
        return "it ends too early"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:200]


def nearest(name: str, names: Iterable[str]) -> str:
    """Returns " (did you mean ...?)" for a misspelt name, or "" if no name is similar."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def known(what: str, name: str, names: Iterable[str]) -> str:
    """Returns `name` if it is one of `names`.

    Args:
      what: The kind of thing that the names refer to, for the message.
      name: The name to check.
      names: All valid names.

    Raises:
      UserError: The name is unknown. The message gives the nearest name and all valid ones.
    """
    names = list(names)
    if name not in names:
        raise UserError(
            f"unknown {what} {name!r}{nearest(name, names)}; there are {', '.join(names)}"
        )
    return name
