"""Ctrl-C and SIGTERM in the commands: one line, and 128 + the signal's number as exit status.

The process ends at once, and its temporary files are removed. The handler raises no exception: an
exception during an import breaks C extensions, which print their own tracebacks, and an exception
in a callback from C code, such as JAX's garbage collection, is lost.

Python's handler runs only after the main thread returns from C code, and compilation takes minutes.
So a thread also waits for the signals. Training replaces the handler with its own while it can
save; see `vitdeblur_jax.training.preemption`.
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
    """Sets the signal handlers of a command; call it before JAX is imported.

    A signal that the process ignores from its start, as in the background of a shell, stays
    ignored.
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
    """Sets our SIGTERM handler again, which JAX replaces when it connects several processes."""
    if signal.getsignal(signal.SIGTERM) is end_by:
        signal.signal(signal.SIGTERM, end_by)


def is_listening() -> bool:
    """Returns whether this module handles the signals of this process."""
    return any(signal.getsignal(number) is end_by for number in _LINES)


def before_end(cleanup: Callable[[], None]) -> None:
    """Registers a function to call before a signal ends the process; it must not block."""
    _cleanups.append(cleanup)


def end_by(number: int, _: FrameType | None = None) -> None:
    """Ends the process at once, with the exit status of that signal."""
    global _ending_thread
    if not _ending.acquire(blocking=False):
        if _ending_thread == threading.get_ident():
            os._exit(_SIGNALLED + number)  # a second signal during this thread's cleanup
        _ending.acquire()  # blocks until the other thread ends the process
    _ending_thread = threading.get_ident()
    line = f"{_LINES[number]}\n"
    with contextlib.suppress(OSError):
        # Not `tell`: the signal may interrupt a print, and streams are not reentrant.
        on_terminal = os.isatty(_STANDARD_ERROR)  # its current line may hold ^C or a bar
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
