"""SIGTERM and Ctrl-C end a run at a step from which it can resume."""

import contextlib
import os
import signal
import threading
from types import FrameType

from jax.experimental import multihost_utils

from vitdeblur_jax.utils import signals

_SIGNALLED = 128  # shells report 128 + the signal number; `errors.INTERRUPTED` is Ctrl-C's
_STANDARD_ERROR = 2


class Preempted(Exception):
    """A signal preempted the run.

    Attributes:
      signal: Number of the signal.
      status: Exit status, 128 + the number.
    """

    def __init__(self, number: int):
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.signal = number
        self.status = _SIGNALLED + number


class Preemption:
    """Records SIGTERM and SIGINT in a `with` block, instead of ending the process at once.

    SIGINT after a first signal ends the process of a command at once; elsewhere it raises
    `KeyboardInterrupt`. A second SIGTERM does nothing, because a cluster may send SIGTERM to a
    process and again to its group, before it sends SIGKILL.

    Python handles signals in the main thread only; in other threads no signal is recorded.

    Attributes:
      signal: Number of the first signal, or None.
    """

    _noted = (signal.SIGTERM, signal.SIGINT)
    signal: int | None = None

    def __enter__(self):
        self._before, self._is_of_command = {}, signals.is_listening()
        if threading.current_thread() is threading.main_thread():
            for number in self._noted:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            # None: the handler was not set from Python, so Python cannot restore it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def check(self) -> None:
        """Raises `Preempted` if a signal was received."""
        if self.signal is not None:
            raise Preempted(self.signal)

    def check_alone(self) -> None:
        """Like `check`, for places that the other processes do not reach equally often."""
        self.check()

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal is None:
            self.signal = number
            name = signal.Signals(number).name
            _tell(f"\n{name}: saving after this step, then exiting; Ctrl-C exits without saving\n")
        elif number == signal.SIGINT:
            if self._is_of_command:
                signals.end_by(number)
            raise KeyboardInterrupt


class AgreedPreemption(Preemption):
    """`Preemption` for several processes: a signal to one ends all of them after the same step.

    It uses JAX's preemption sync point, which handles SIGTERM itself. SIGINT is forwarded as
    SIGTERM.
    """

    _noted = (signal.SIGINT,)
    _checks = 0

    def check(self) -> None:
        """Raises `Preempted` in all processes at the same call.

        All processes must call it equally often.
        """
        self._checks += 1
        if multihost_utils.reached_preemption_sync_point(self._checks):
            raise Preempted(signal.SIGTERM)

    def check_alone(self) -> None:
        """Does nothing, because one process must not end by itself."""

    def _note(self, number, frame):
        super()._note(number, frame)
        os.kill(os.getpid(), signal.SIGTERM)


def _tell(line):
    # Not print: the signal may interrupt another print, and print is not reentrant.
    with contextlib.suppress(OSError):
        os.write(_STANDARD_ERROR, line.encode())
