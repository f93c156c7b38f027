"""The one exception that stands for a user's mistake, and what the commands end with."""

CHECKED_AND_WRONG = 1
CANNOT = 2
INTERRUPTED = 130


class UserError(ValueError):
    """Bad input, told in one line: what is wrong, where, and how to mend it.

    The entry points print the message without a traceback and exit with status 2.
    """


def one_line(error: BaseException) -> str:
    """Returns what an exception says, as one short line, to be part of a `UserError`."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:200]
