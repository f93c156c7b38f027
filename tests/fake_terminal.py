"""A terminal and a clock for what shows progress."""

import io
import time
from types import ModuleType, SimpleNamespace

import pytest


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def set_clock(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> SimpleNamespace:
    """Gives `module` a monotonic clock that goes on only when a test sets `now` of the result."""
    clock = SimpleNamespace(now=100.0)
    fake = SimpleNamespace(monotonic=lambda: clock.now, time=time.time, time_ns=time.time_ns)
    monkeypatch.setattr(module, "time", fake)
    return clock
