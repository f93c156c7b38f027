import os
import signal
import sys
import threading
import time

import pytest

from tests.forked import running
from vitdeblur_jax.training.preemption import Preempted, Preemption

SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_told_once(number, capfd):
    with Preemption() as preemption:
        preemption.check()
        signal.raise_signal(number)
        with pytest.raises(Preempted, match=number.name) as told:
            preemption.check()
    assert preemption.signal == told.value.signal == number
    assert told.value.status == 128 + number
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"{number.name}: saving after this step")


@pytest.mark.parametrize("first", SIGNALS)
def test_ctrl_c_after_a_signal_ends_at_once(first):
    with Preemption() as preemption:
        signal.raise_signal(first)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert preemption.signal == first


@pytest.mark.parametrize("first", SIGNALS)
def test_sigterm_after_a_signal_changes_nothing(first, capfd):
    with Preemption() as preemption:
        signal.raise_signal(first)
        signal.raise_signal(signal.SIGTERM)
    assert preemption.signal == first
    assert len(capfd.readouterr().err.strip().splitlines()) == 1


def test_the_handlers_from_before_are_put_back():
    def handler(*_):
        pass

    def fail_inside():
        with Preemption():
            assert signal.getsignal(signal.SIGTERM) is not handler
            raise ZeroDivisionError

    of_ctrl_c = signal.getsignal(signal.SIGINT)
    earlier = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(ZeroDivisionError):
            fail_inside()
        assert signal.getsignal(signal.SIGTERM) is handler
        assert signal.getsignal(signal.SIGINT) is of_ctrl_c
    finally:
        signal.signal(signal.SIGTERM, earlier)


def test_in_another_thread_nothing_is_noted():
    before = [signal.getsignal(number) for number in SIGNALS]
    seen = []

    def work():
        with Preemption() as preemption:
            seen.extend(signal.getsignal(number) for number in SIGNALS)
            preemption.check()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == before


def _train_for_ever(ready):
    with Preemption() as preemption:
        ready.touch()
        try:
            while True:
                # As a progress line would be, in the middle of which the signal comes.
                print("step", file=sys.stderr)
                preemption.check()
        except Preempted as interrupted:
            sys.exit(interrupted.status)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_process_ends_with_the_status_of_its_signal(number, tmp_path):
    said = tmp_path / "said"
    with running(_train_for_ever, tmp_path / "ready", stderr=said) as process:
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        os.kill(process.pid, number)
        process.join(60)
        assert process.exitcode == 128 + number
    lines = said.read_text().splitlines()
    assert sum(line.startswith(f"{number.name}: saving after") for line in lines) == 1
    assert "Traceback" not in said.read_text()
