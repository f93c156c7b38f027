"""Ending a run on SIGTERM or Ctrl-C where it can be gone on with."""

import contextlib
import os
import signal
import threading
from types import FrameType

from jax.experimental import multihost_utils

from vitdeblur_jax.utils import signals

_SIGNALLED = 128  # what shells add to a signal's number; `errors.INTERRUPTED` is that of Ctrl-C
_STANDARD_ERROR = 2


class Preempted(Exception):
    """A signal has asked the run to end.

    Attributes:
      signal: its number.
      status: what a process that it has ended exits with, 128 + its number.
    """

    def __init__(self, number: int):
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.signal = number
        self.status = _SIGNALLED + number


class Preemption:
    """Notes SIGTERM and SIGINT instead of ending at once, for the length of a `with` block.

    SIGINT after either of them ends the process at once, or, where it is not that of a command,
    raises `KeyboardInterrupt`. SIGTERM again does nothing: a
    cluster may send it to a process and again to its group, and SIGKILL is what it ends with.

    Python takes signals in the main thread only; in any other, nothing is noted.

    Attributes:
      signal: the number of the first that came, or None.
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
            # None stands for a handler that Python has not set and cannot set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def check(self) -> None:
        """Raises `Preempted` if a signal has come."""
        if self.signal is not None:
            raise Preempted(self.signal)

    def check_alone(self) -> None:
        """Does the same, where other processes could not do it as often."""
        self.check()

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal is None:
            self.signal = number
            name = signal.Signals(number).name
            _tell(f"\n{name}: the run saves after this step and ends; Ctrl-C now ends it unsaved\n")
        elif number == signal.SIGINT:
            if self._is_of_command:
                signals.end_by(number)
            raise KeyboardInterrupt


class AgreedPreemption(Preemption):
    """The same for several processes: a signal to any of them ends all after the same step.

    It is JAX's agreement on a preemption, which looks out for SIGTERM by itself. SIGINT is passed
    on as SIGTERM.
    """

    _noted = (signal.SIGINT,)
    _checks = 0

    def check(self) -> None:
        """Raises `Preempted` in all processes at the same call, which each makes as often."""
        self._checks += 1
        if multihost_utils.reached_preemption_sync_point(self._checks):
            raise Preempted(signal.SIGTERM)

    def check_alone(self) -> None:
        """Does nothing: one process cannot end by itself."""

    def _note(self, number, frame):
        super()._note(number, frame)
        os.kill(os.getpid(), signal.SIGTERM)


def _tell(line):
    # Not print: the signal may have come in the middle of another print, which forbids a second.
    with contextlib.suppress(OSError):
        os.write(_STANDARD_ERROR, line.encode())
