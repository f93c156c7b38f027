"""`UserError`, the exception for a user's mistake, and the exit statuses of the commands."""

import difflib
import os
import struct
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path

CHECKED_AND_WRONG = 1
CANNOT = 2
LOST_OTHERS = 75  # EX_TEMPFAIL of sysexits.h: a retry may succeed
INTERRUPTED = 130

_SIMILAR = 0.6  # the ratio from which difflib calls two texts a close match


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


def raised_in(error: BaseException) -> str:
    """Returns an exception's type and message, after the file and line of the user's code.

    This is the innermost line outside this package, installed packages and Python's library.
    """
    others = (str(Path(__file__).parents[1]) + os.sep, sysconfig.get_paths()["stdlib"] + os.sep)
    places = [
        (frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    lines = [
        f"{Path(file).name}, line {line}: "
        for file, line in places
        if not file.startswith(("<", *others)) and "-packages" + os.sep not in file
    ]
    return f"{lines[-1] if lines else ''}{type(error).__name__}: {one_line(error)}"


def nearest(name: str, names: Iterable[str], prefix: str = "") -> str:
    """Returns " (did you mean ...?)" for a misspelt name, or "" if no name is similar.

    Of names that are equally similar, the first one is suggested. It is shown after `prefix`.
    """

    def similarity(other):
        return difflib.SequenceMatcher(None, other, name).ratio()

    best = max(names, key=similarity, default=None)
    is_similar = best is not None and similarity(best) >= _SIMILAR
    return f" (did you mean {prefix + best!r}?)" if is_similar else ""


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
