"""The lock of a run in a bucket, with seconds in place of a minute."""

import json
import os
import subprocess
import threading
import time

import pytest

from vitdeblur_jax.training import bucket_lock as module
from vitdeblur_jax.training.bucket_lock import bucket_lock
from vitdeblur_jax.utils.errors import CANNOT, UserError
from vitdeblur_jax.utils.files import this_host


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(module, "_PERIOD", 0.1)
    monkeypatch.setattr(module, "_STALE_AFTER", 1.0)
    monkeypatch.setattr(module, "_POLL", 0.05)


def content(folder) -> dict:
    return json.loads((folder / "lock").read_text())


def left_behind(folder, **changes) -> dict:
    """Writes the lock of a killed process."""
    left = {"process": 7, "host": "elsewhere", "machine": "other", "id": "x", "count": 3, **changes}
    (folder / "lock").write_text(json.dumps(left))
    return left


def test_it_tells_its_owner_and_goes_at_the_end(bucket):
    with bucket_lock(bucket / "run"):
        assert content(bucket / "run")["process"] == os.getpid()
        assert content(bucket / "run")["machine"] == this_host()
    assert not (bucket / "run/lock").exists()


def test_a_second_one_is_refused_while_the_first_lives(bucket, monkeypatch, capfd):
    monkeypatch.setattr(module, "_STALE_AFTER", 60.0)
    with (
        bucket_lock(bucket),
        pytest.raises(UserError, match=rf"{bucket} is in use by process {os.getpid()} on .*; wait"),
        bucket_lock(bucket),
    ):
        pass
    assert "waiting to see if it still runs" in capfd.readouterr().err


def test_that_of_another_machine_is_taken_when_it_stays_as_it_is(bucket):
    left_behind(bucket)
    began = time.monotonic()
    with bucket_lock(bucket):
        assert time.monotonic() - began > 1
        assert content(bucket)["process"] == os.getpid()


def test_that_of_a_dead_process_of_this_machine_is_taken_at_once(bucket, capfd):
    ended = subprocess.Popen(["true"])
    ended.wait()
    left_behind(bucket, machine=this_host(), process=ended.pid)
    with bucket_lock(bucket):
        assert content(bucket)["process"] == os.getpid()
    assert capfd.readouterr().err == ""


def test_a_lost_lock_ends_the_process(bucket, monkeypatch, capfd):
    left = threading.Event()
    status = []

    def leave(number):
        status.append(number)
        left.set()

    monkeypatch.setattr(module, "leave", leave)
    with bucket_lock(bucket):
        other = left_behind(bucket)
        assert left.wait(10)
    assert status == [CANNOT]
    assert "process 7 on elsewhere has taken over s3://" in capfd.readouterr().err
    assert content(bucket) == other
