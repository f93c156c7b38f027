"""Reading and writing checkpoints leaves the application's loggers and hooks unchanged."""

import logging
import sys

import pytest

from vitdeblur_jax import load_pretrained, save_pretrained
from vitdeblur_jax.checkpoints.orbax_errors import quiet_orbax
from vitdeblur_jax.utils import signals
from vitdeblur_jax.utils.errors import UserError


def state():
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    return [list(logger.filters) for logger in loggers], sys.unraisablehook


def test_loggers_and_hooks_are_restored_after_an_error(small, tmp_path):
    before = state()
    save_pretrained(small, tmp_path / "checkpoint")
    for path in (tmp_path / "checkpoint/variables").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(UserError):
        load_pretrained(tmp_path / "checkpoint")
    assert state() == before


@pytest.mark.parametrize("error", [UserError, KeyboardInterrupt])
def test_only_the_process_of_a_command_stays_quiet_after_an_error(monkeypatch, error):
    before, (filters, hook) = state(), state()
    for is_command in (False, True):
        monkeypatch.setattr(signals, "is_listening", lambda is_command=is_command: is_command)
        with pytest.raises(error), quiet_orbax():
            raise error
        assert (state() == before) == (not is_command)
    for name, old in zip(("absl", "asyncio"), filters, strict=True):
        logging.getLogger(name).filters[:] = old
    sys.unraisablehook = hook
