"""Ctrl-C and SIGTERM in the commands: one line, and 128 + the signal's number as exit status.

The process ends where it stands, and its temporary files are removed. Nothing is raised: an
exception in the middle of an import breaks C extensions, which print tracebacks of their own; one
that is raised while C code calls back, as in JAX's garbage collection, is lost.

A thread waits for the signals beside Python's handler, which runs only once the main thread has
returned from C code: compilation takes minutes. Training replaces the handler by its own while it
can save; see `vitdeblur_jax.training.preemption`.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

_SIGNALLED = 128  # what shells add to a signal's number
_STANDARD_ERROR = 2
_LINES = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}

_cleanups: list[Callable[[], None]] = []
_ending = threading.Lock()
_ending_thread: int | None = None


def listen() -> None:
    """Sets the handlers of a command's process; to be called before JAX is imported.

    A signal that the process was started to ignore, as in the background of a shell, stays ignored.
    """
    if is_listening():
        return
    for number in _LINES:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, end_by)
    if is_listening():
        arrivals, arrived = os.pipe()
        os.set_blocking(arrived, False)
        signal.set_wakeup_fd(arrived, warn_on_full_buffer=False)
        threading.Thread(target=_watch, args=(arrivals,), daemon=True).start()


def listen_again() -> None:
    """Takes SIGTERM back from JAX, which takes it when several processes are joined."""
    if signal.getsignal(signal.SIGTERM) is end_by:
        signal.signal(signal.SIGTERM, end_by)


def is_listening() -> bool:
    """Returns whether a signal ends this process as this module describes."""
    return any(signal.getsignal(number) is end_by for number in _LINES)


def before_end(cleanup: Callable[[], None]) -> None:
    """Registers what has to be done before a signal ends the process; it must not wait."""
    _cleanups.append(cleanup)


def end_by(number: int, _: FrameType | None = None) -> None:
    """Ends the process at once as a signal of that number does."""
    global _ending_thread
    if not _ending.acquire(blocking=False):
        if _ending_thread == threading.get_ident():
            os._exit(_SIGNALLED + number)  # a second signal while this thread cleans up
        _ending.acquire()  # for ever: another thread ends the process
    _ending_thread = threading.get_ident()
    line = f"{_LINES[number]}\n"
    with contextlib.suppress(OSError):
        # Not `tell`: the signal may have come in the middle of a print, which forbids a second.
        on_terminal = os.isatty(_STANDARD_ERROR)  # where ^C or a bar stands in the line
        os.write(_STANDARD_ERROR, f"\n{line}".encode() if on_terminal else line.encode())
    for cleanup in _cleanups:
        with contextlib.suppress(Exception):
            cleanup()
    if "multiprocessing" in sys.modules:
        for child in sys.modules["multiprocessing"].active_children():
            child.kill()
    os._exit(_SIGNALLED + number)


def _watch(arrivals: int) -> None:
    while numbers := os.read(arrivals, 1):
        if signal.getsignal(numbers[0]) is end_by:
            end_by(numbers[0])
