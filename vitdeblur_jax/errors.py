"""The one exception that stands for a mistake of the user's, not of the program's."""


class UserError(ValueError):
    """Bad input, told in one line: what is wrong, where, and how to mend it.

    The entry points print the message without a traceback and exit with status 2.
    """


def one_line(error: BaseException) -> str:
    """Returns what an exception says, as one short line, to be part of a `UserError`."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:200]
