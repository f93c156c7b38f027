"""Ctrl-C and SIGTERM: one line, the signal's status, no temporary file, whatever goes on."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.forked import running
from vitdeblur_jax.utils import signals
from vitdeblur_jax.utils.files import folder_when_whole, replaced_when_whole

SIGNALS = {signal.SIGINT: "interrupted\n", signal.SIGTERM: "terminated\n"}


def in_python():
    time.sleep(100)


def in_c():
    """Waits for a mutex, which no signal ends: Python's own handlers never run."""
    mutex = ctypes.create_string_buffer(64)
    for _ in range(2):
        ctypes.CDLL(None).pthread_mutex_lock(mutex)


def _write_for_ever(folder, wait):
    signals.listen()
    with replaced_when_whole(folder / "a.png"), folder_when_whole(folder / "checkpoint"):
        (folder / "ready").touch()
        wait()


@pytest.mark.parametrize("wait", [in_python, in_c])
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_process_at_once_and_leaves_no_temporary(number, wait, tmp_path):
    said = tmp_path / "said"
    with running(_write_for_ever, tmp_path, wait, stderr=said) as process:
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        os.kill(process.pid, number)
        process.join(60)
        assert process.exitcode == 128 + number
    assert said.read_text() == SIGNALS[number]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ready", "said"]


def _start_with_ignored_interrupts():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signals.listen()
    os.kill(os.getpid(), signal.SIGINT)
    sys.exit(7)


def test_a_process_in_the_background_of_a_shell_ignores_ctrl_c():
    with running(_start_with_ignored_interrupts) as process:
        process.join(60)
        assert process.exitcode == 7


def _catches(pid: int, number: int) -> bool:
    """Returns whether a process has a handler; Python has none of SIGTERM by itself."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return bool(int(status["SigCgt"], 16) >> (number - 1) & 1)


def end_command(program, folder, number, seconds):
    """Sends a signal so long after the handlers are set; returns status, what was said, time."""
    # The process would inherit it, if the tests themselves had been started to ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, *program],
        cwd=folder,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    signal.signal(signal.SIGINT, before)
    while not _catches(process.pid, signal.SIGTERM):
        time.sleep(0.002)
    time.sleep(seconds)
    began = time.monotonic()
    process.send_signal(number)
    said = process.communicate(timeout=60)[1].decode()
    return process.returncode, said, time.monotonic() - began


def test_ctrl_c_while_jax_is_imported_gives_one_line(tmp_path):
    program = ["-m", "vitdeblur_jax", "photo.png"]
    assert end_command(program, tmp_path, signal.SIGINT, 0.1)[:2] == (130, "interrupted\n")


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("seconds", [0, 0.05, 0.2, 0.3, 0.5, 0.8, 1.2, 2, 3, 5])
def test_a_signal_at_any_moment_gives_one_line(tmp_path, data_folder, number, seconds):
    from tests.made_up_data import write

    for i in range(30):
        write(tmp_path / f"photos/{i}.png", i, (300, 400))
    before = sorted(tmp_path.rglob("*"))
    program = ["-m", "vitdeblur_jax", "photos", "-o", "photos/new/"]
    status, said, taken = end_command(program, tmp_path, number, seconds)
    assert status == 128 + number
    *_, last = said.splitlines()
    assert f"{last}\n" == SIGNALS[number]
    assert "Traceback" not in said
    assert taken < 5
    assert all(path.suffix in ("", ".png") for path in {*tmp_path.rglob("*")} - {*before})
