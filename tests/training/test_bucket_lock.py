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
from vitdeblur_jax.utils.hosts import this_host


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


@pytest.fixture
def dead() -> dict:
    """What a lock of a dead process of this machine tells."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    return {"machine": this_host(), "process": ended.pid}


def test_that_of_a_dead_process_of_this_machine_is_taken_at_once(bucket, capfd, dead):
    left_behind(bucket, **dead)
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
        for _ in range(30):
            other = left_behind(bucket)
            if left.wait(0.3):  # else a write of the owner replaced it
                break
    assert status == [CANNOT]
    assert "process 7 on elsewhere has taken over s3://" in capfd.readouterr().err
    assert content(bucket) == other


def test_of_two_that_replace_a_stale_one_only_one_gets_it(bucket, monkeypatch, dead):
    """The slow one removes the lock of the fast one, which it takes for the stale one."""
    monkeypatch.setattr(module, "_STALE_AFTER", 60.0)
    left_behind(bucket, **dead)
    fast, slow = module._Lock(bucket), module._Lock(bucket)
    is_seen, is_replaced, is_removed = threading.Event(), threading.Event(), threading.Event()
    create, remove = fast._create, slow._remove

    def create_first():
        is_created = create()
        if is_created:
            is_replaced.set()
            assert is_removed.wait(10)
        return is_created

    def remove_late():
        is_seen.set()
        assert is_replaced.wait(10)
        remove()

    def take_late():
        slow.take()
        is_removed.set()
        slow.keep(stop)

    monkeypatch.setattr(fast, "_create", create_first)
    monkeypatch.setattr(slow, "_remove", remove_late)
    stop = threading.Event()
    thread = threading.Thread(target=take_late)
    thread.start()
    assert is_seen.wait(10)
    with pytest.raises(UserError, match="is in use by process"):
        fast.take()
    stop.set()
    thread.join()
    assert content(bucket)["id"] == slow._id


def test_an_unexpected_error_does_not_end_the_writes(bucket, monkeypatch):
    read, errors = module._Lock._read, [RuntimeError("closed"), ValueError("cut")]
    is_read = threading.Event()

    def read_badly(lock):
        if errors:
            raise errors.pop()
        is_read.set()
        return read(lock)

    with bucket_lock(bucket):
        monkeypatch.setattr(module._Lock, "_read", read_badly)
        assert is_read.wait(10)
