"""The lock of a run in a bucket.

Buckets lock no files. The lock is an object that only one process can create. Its owner rewrites it
every few seconds, and the others watch it: a lock that does not change any more belongs to a
process that was killed, and is replaced. They compare no clocks.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator

from vitdeblur_jax.distributed.processes import leave
from vitdeblur_jax.utils.buckets import AnyPath, filesystem
from vitdeblur_jax.utils.errors import CANNOT, UserError
from vitdeblur_jax.utils.hosts import has_ended, this_host
from vitdeblur_jax.utils.output import tell

_PERIOD = 15.0  # seconds between two writes of the owner
_STALE_AFTER = 4 * _PERIOD
_POLL = 1.0


@contextlib.contextmanager
def bucket_lock(folder: AnyPath) -> Iterator[None]:
    """Holds the lock of a folder in a bucket.

    A lock left by a killed process of this machine is replaced in seconds, one of another machine
    when it has not changed for a minute. If this process is cut off for so long that another one
    replaces its lock, it exits at once, because two processes must not write into the folder.

    Raises:
      UserError: Another process holds the lock.
    """
    lock = _Lock(folder)
    lock.take()
    stop = threading.Event()
    beats = threading.Thread(target=lock.keep, args=(stop,), name="bucket-lock", daemon=True)
    beats.start()
    try:
        yield
    finally:
        stop.set()
        beats.join()
        lock.release()


class _Lock:
    def __init__(self, folder):
        self._folder, self._path = folder, str(folder / "lock")
        self._files = filesystem(folder)
        self._id = uuid.uuid4().hex
        self._count = 0

    def take(self):
        replaces = False
        while not self._create() or (replaces and not self._is_kept()):
            other = self._read()
            if other is not None:
                if not _is_dead(other):
                    self._watch(other)
                if self._read() == other:
                    self._remove()
                    replaces = True

    def _is_kept(self):
        """Returns whether no other process, which also saw the stale lock, removed this one."""
        time.sleep(2 * _POLL)
        return (self._read() or {}).get("id") == self._id

    def keep(self, stop):
        """Rewrites the lock until `stop` is set."""
        while not stop.wait(_PERIOD):
            try:
                other = self._read()
                if other is not None and other.get("id") != self._id:
                    return self._leave(other)
                self._files.pipe_file(self._path, self._content())
            except Exception:  # of the bucket, or of its library: the next read may succeed
                continue

    def release(self):
        with contextlib.suppress(Exception):  # a lock that is left is replaced later
            if (self._read() or {}).get("id") == self._id:
                self._remove()

    def _create(self):
        try:
            self._files.pipe_file(self._path, self._content(), mode="create")
        except FileExistsError:
            return False
        return True

    def _content(self):
        self._count += 1
        content = {
            **{"process": os.getpid(), "host": socket.gethostname(), "machine": this_host()},
            **{"id": self._id, "count": self._count},
        }
        return json.dumps(content).encode()

    def _read(self):
        """Returns the content of the lock, {} for a damaged one; None if there is none."""
        try:
            content = json.loads(self._files.cat_file(self._path))
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return content if isinstance(content, dict) else {}

    def _remove(self):
        with contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._path)

    def _watch(self, other):
        """Returns when the lock is stale or gone; raises `UserError` if its owner rewrites it."""
        tell(f"note: {self._folder} is locked by {_owner(other)}; waiting to see if it still runs")
        until = time.monotonic() + _STALE_AFTER
        while time.monotonic() < until:
            time.sleep(_POLL)
            now = self._read()
            if now is None:
                return
            if now != other:
                raise UserError(
                    f"the workdir {self._folder} is in use by {_owner(now)}; wait for it or stop "
                    "it, or choose another --workdir"
                )

    def _leave(self, other):
        tell(
            f"error: {_owner(other)} has taken over {self._folder}, because this process did not "
            "reach the bucket for too long"
        )
        leave(CANNOT)


def _owner(content):
    return f"process {content.get('process')} on {content.get('host')}"


def _is_dead(content):
    pid = content.get("process")
    return content.get("machine") == this_host() and isinstance(pid, int) and has_ended(pid)
