"""All printing of the package. Every line is made printable, and a broken stream does no harm.

Notes, progress and errors go to standard error (`tell`), results to standard output (`show`,
`write_result`). If standard error is closed, full or broken, only its lines are lost. If standard
output cannot be written, a `UserError` is raised, unless its reader has closed the pipe.
"""

import contextlib
import errno
import io
import os
import re
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator

from vitdeblur_jax.utils.errors import UserError, one_line

_STANDARD_STREAMS = (0, 1, 2)


def printable(text: str) -> str:
    r"""Returns the text as one line without control sequences for a terminal.

    Control characters, line breaks, direction marks and the surrogates of file names that are not
    UTF-8 become escapes such as ``\x1b``.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def tell(line: str) -> None:
    """Prints one line on standard error; does nothing if that cannot be written."""
    standard_error.write(f"{printable(line)}\n")
    standard_error.flush()


def tell_traceback(error: BaseException) -> None:
    """Prints the traceback of an unexpected error on standard error, as Python does."""
    for line in "".join(traceback.format_exception(error)).splitlines():
        tell(line)


def show(*lines: str, styled: bool = False) -> None:
    """Prints lines of a result on standard output.

    Args:
      lines: The lines, without line breaks.
      styled: Whether the lines hold style codes of this package and are otherwise printable.

    Raises:
      UserError: Standard output cannot be written. There is no error if it is closed, or if its
        reader has closed the pipe (as `head` does).
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
      UserError: Standard output cannot be written.
    """
    stream = _binary(sys.stdout, "standard output")
    try:
        stream.write(data)
        stream.flush()
    except (OSError, ValueError) as error:
        raise UserError(f"standard output cannot be written ({one_line(error)})") from error


def check_result_can_be_written() -> None:
    """Raises `UserError` if standard output is closed; call it before the work."""
    _binary(sys.stdout, "standard output")


def read_input() -> bytes:
    """Returns all of standard input.

    Raises:
      UserError: Standard input is closed or cannot be read.
    """
    stream = _binary(sys.stdin, "standard input")
    try:
        return stream.read()
    except (OSError, ValueError) as error:
        raise UserError(f"standard input cannot be read ({one_line(error)})") from error


def results_go_to_terminal() -> bool:
    """Returns whether standard output is a terminal, which can show styles."""
    return _is_terminal(sys.stdout)


@contextlib.contextmanager
def c_messages(pattern: re.Pattern[bytes]) -> Iterator[list[str]]:
    """Collects the lines that a C library prints on standard error, instead of printing them.

    Everything else that the process prints there meanwhile is printed after the block.

    Args:
      pattern: Matches a line of the library; its first group is the message.

    Yields:
      A list that has the messages after the block.
    """
    messages = []
    with _one_at_a_time, contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.TemporaryFile())
            original = os.dup(2)
        except OSError:  # the disk is full, or standard error is closed
            yield messages
            return
        try:
            os.dup2(file.fileno(), 2)
            yield messages
        finally:
            os.dup2(original, 2)
            os.close(original)
            file.seek(0)
            for line in file:
                if found := pattern.match(line):
                    messages.append(found[1].decode("utf-8", "replace"))
                else:
                    with contextlib.suppress(OSError):
                        os.write(2, line)


_one_at_a_time = threading.Lock()


def occupy_closed_streams() -> None:
    """Opens the null device for every standard stream that is closed.

    Otherwise the next opened file gets the stream's descriptor, and output of C libraries goes into
    that file.
    """
    for descriptor in _STANDARD_STREAMS:
        try:
            os.fstat(descriptor)
        except OSError:
            # `open` takes the lowest free descriptor, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def drop_what_cannot_be_written() -> None:
    """Discards buffered output that the standard streams cannot write.

    Otherwise Python retries at exit, prints a traceback, and exits with status 120.
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
    """The current `sys.stderr`; output that it cannot write is lost."""

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

    def __del__(self) -> None:
        """Does nothing; `IOBase` would flush at exit, when this module's names are gone."""


standard_error = _StandardError()


def _is_terminal(stream) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return stream is not None and stream.isatty()
    return False


def _encodable(text: str, stream) -> str:
    """Returns the text with escapes for characters that the stream's encoding lacks."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _binary(stream, name):
    stream = getattr(stream, "buffer", None)
    if stream is None or stream.closed:
        raise UserError(f"{name} is closed")
    return stream
