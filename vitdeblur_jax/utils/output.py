"""The one place that prints to people: every line is made printable, and no stream ends the work.

Notes, progress and errors go to standard error (`tell`), results to standard output (`show`,
`write_result`). A standard error that is closed, full or broken loses lines and nothing else. A
standard output that cannot take a result is a `UserError`, unless its reader has left.
"""

import contextlib
import errno
import io
import os
import sys
import traceback

from vitdeblur_jax.utils.errors import UserError, one_line

_STANDARD_STREAMS = (0, 1, 2)


def printable(text: str) -> str:
    r"""Returns the text as one line that cannot steer a terminal.

    Control characters, line breaks, direction marks and the surrogates that stand for file names
    which are not UTF-8 become escapes such as ``\x1b``.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def tell(line: str) -> None:
    """Prints one line on standard error; does nothing where that cannot be written."""
    standard_error.write(f"{printable(line)}\n")
    standard_error.flush()


def tell_traceback(error: BaseException) -> None:
    """Prints an error that nobody has foreseen as Python does, on standard error."""
    for line in "".join(traceback.format_exception(error)).splitlines():
        tell(line)


def show(*lines: str, styled: bool = False) -> None:
    """Prints lines of a result on standard output.

    Args:
      lines: without line breaks.
      styled: they are printable already, but for style codes of this package.

    Raises:
      UserError: standard output cannot be written. One that is closed, or whose reader has left (as
        `head` does), loses the lines without an error.
    """
    text = "".join(f"{line if styled else printable(line)}\n" for line in lines)
    stream = sys.stdout
    if stream is None:
        return
    try:
        stream.write(_encodable(text, stream))
        stream.flush()
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) != errno.EPIPE:
            raise UserError(f"standard output cannot be written ({one_line(error)})") from error


def write_result(data: bytes) -> None:
    """Writes a file's bytes to standard output.

    Raises:
      UserError: not all of them can be written.
    """
    stream = _binary(sys.stdout, "standard output")
    try:
        stream.write(data)
        stream.flush()
    except (OSError, ValueError) as error:
        raise UserError(f"standard output cannot be written ({one_line(error)})") from error


def check_result_can_be_written() -> None:
    """Raises `UserError` if standard output is closed, before any work is done for it."""
    _binary(sys.stdout, "standard output")


def read_input() -> bytes:
    """Returns all of standard input.

    Raises:
      UserError: it is closed or cannot be read.
    """
    stream = _binary(sys.stdin, "standard input")
    try:
        return stream.read()
    except (OSError, ValueError) as error:
        raise UserError(f"standard input cannot be read ({one_line(error)})") from error


def results_go_to_terminal() -> bool:
    """Returns whether standard output is an open terminal, which can show styles."""
    return _is_terminal(sys.stdout)


def occupy_closed_streams() -> None:
    """Opens the null device for every standard stream that this process was started without.

    Otherwise the next file that is opened takes the stream's number, and whatever a C library
    prints goes into that file.
    """
    for descriptor in _STANDARD_STREAMS:
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number is this one: all below are taken.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def drop_what_cannot_be_written() -> None:
    """Discards what the standard streams still hold and cannot write.

    Python tries once more when it ends, prints a traceback, and exits with status 120.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)


class _StandardError(io.TextIOBase):
    """Whatever `sys.stderr` is at the moment; what it cannot take is lost."""

    @property
    def encoding(self) -> str | None:
        return getattr(sys.stderr, "encoding", None)

    def isatty(self) -> bool:
        return _is_terminal(sys.stderr)

    def fileno(self) -> int:
        if sys.stderr is None:
            raise io.UnsupportedOperation("standard error is closed")
        return sys.stderr.fileno()

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            if sys.stderr is not None:
                sys.stderr.write(_encodable(text, sys.stderr))
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            if sys.stderr is not None:
                sys.stderr.flush()


standard_error = _StandardError()


def _is_terminal(stream) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return stream is not None and stream.isatty()
    return False


def _encodable(text: str, stream) -> str:
    """Returns the text with escapes for what the stream's encoding lacks."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _binary(stream, name):
    stream = getattr(stream, "buffer", None)
    if stream is None or stream.closed:
        raise UserError(f"{name} is closed")
    return stream
