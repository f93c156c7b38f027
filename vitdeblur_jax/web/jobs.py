"""Uploaded images, their queue, and the thread that restores them one at a time."""

import os
import queue
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.output import tell_traceback

UPLOADING, WAITING, RUNNING, DONE, FAILED = "uploading", "waiting", "running", "done", "failed"


class Limits(NamedTuple):
    """Bounds on what is kept, in memory and on disk.

    Attributes:
      upload_bytes: Size of one file.
      waiting: Images that are uploaded or wait.
      images: Images in all.
      stored_bytes: Disk space for all images and their results.
    """

    upload_bytes: int = 2**29
    waiting: int = 16
    images: int = 64
    stored_bytes: int = 4 * 2**30


LIMITS = Limits()


class Cancelled(Exception):
    """The image was removed while it was restored."""


class Full(UserError):
    """There is no room for another image."""


class Job:
    """An image: its files, and how far its restoration is.

    Attributes:
      id: Random name of the job in addresses.
      name: Name of the uploaded file, for people only.
      model: Index of the model.
      folder: Holds the job's files. Their names do not depend on the upload.
      state: "uploading", "waiting", "running", "done" or "failed".
      upload_bytes: Size that the upload will have, as far as the browser has said it.
      size: Width and height, once they are known.
      notes: What changes or is lost, one sentence each.
      error: Why it failed.
    """

    def __init__(self, name: str, model: int, folder: Path, upload_bytes: int = 0):
        self.id = secrets.token_urlsafe(16)
        self.name, self.model, self.folder = name, model, folder / self.id
        self.state, self.error = UPLOADING, None
        self.upload_bytes = upload_bytes
        self.size: tuple[int, int] | None = None
        self.notes: tuple[str, ...] = ()
        self.total = self._done = self._first = 0
        self._first_time: float | None = None
        self._removed = threading.Event()

    @property
    def upload(self) -> Path:
        """The uploaded file."""
        return self.folder / "upload"

    def advance(self, count: int = 0) -> None:
        """Counts finished tiles.

        Raises:
          Cancelled: The image was removed.
        """
        if self._removed.is_set():
            raise Cancelled
        self._done += count
        if self._done and self._first_time is None:  # the first ones may include compilation
            self._first, self._first_time = self._done, time.monotonic()

    def remove(self) -> None:
        """Stops the restoration at its next `advance`, and deletes the files."""
        self._removed.set()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def is_removed(self) -> bool:
        """Whether `remove` was called."""
        return self._removed.is_set()

    def description(self) -> dict[str, Any]:
        """Returns what the page shows, as plain values."""
        return {
            "id": self.id,
            "name": self.name,
            "model": self.model,
            "state": self.state,
            "size": self.size,
            "progress": self._done / self.total if self.total else 0,
            "seconds_left": self._seconds_left(),
            "notes": self.notes,
            "error": self.error,
        }

    def _seconds_left(self) -> float | None:
        start, done = self._first_time, self._done - self._first
        if self.state != RUNNING or start is None or not done:
            return None
        return (self.total - self._done) * (time.monotonic() - start) / done


class Jobs:
    """All images of a session, in a bounded queue with one worker."""

    def __init__(
        self,
        folder: Path,
        restore: Callable[[Job, Callable[[str, int], None]], None],
        explain: Callable[[Exception], str | None],
        limits: Limits = LIMITS,
    ):
        """Starts the worker.

        Args:
          folder: An empty folder for all files.
          restore: Restores an image. It calls `job.advance` often, and gets `check_room`.
          explain: Returns the line for an error of the user's; None for a bug.
          limits: What to keep.
        """
        self.limits = limits
        self._folder, self._restore, self._explain = folder, restore, explain
        self._jobs: dict[str, Job] = {}
        self._queue: queue.SimpleQueue[Job] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="restore", daemon=True).start()

    def all(self) -> list[Job]:
        """Returns all images, the oldest first."""
        return list(self._jobs.values())

    def find(self, job_id: str) -> Job | None:
        """Returns the job of that id, or None."""
        return self._jobs.get(job_id)

    def add(self, name: str, model: int, upload_bytes: int) -> Job:
        """Creates a job whose file is to be uploaded; call `enqueue` or `remove` afterwards.

        Args:
          name: Name of the file.
          model: Index of the model.
          upload_bytes: Size of the file; 0 if the browser has not said it.

        Raises:
          Full: There are too many images already, or too many bytes.
        """
        jobs, limits = self.all(), self.limits
        waiting = sum(job.state in (UPLOADING, WAITING) for job in jobs)
        if waiting >= limits.waiting:
            raise Full(f"{name}: {waiting} images wait already; try again when one is done")
        if len(jobs) >= limits.images:
            raise Full(f"{name}: there are {len(jobs)} images already; remove some")
        self.check_room(name, upload_bytes)
        job = Job(name, model, self._folder, upload_bytes)
        job.folder.mkdir(mode=0o700)
        self._jobs[job.id] = job
        return job

    def check_room(self, name: str, needed: int = 0) -> None:
        """Raises `Full` if the files of all images and so many bytes more are over the limit."""
        used = sum(map(_stored_bytes, self.all()))
        if used + needed > self.limits.stored_bytes:
            raise Full(
                f"{name}: the images and results take over {self.limits.stored_bytes / 2**30:g} "
                "GiB on disk; download the results and remove some images"
            )

    def enqueue(self, job: Job) -> None:
        """Puts an uploaded image at the end of the queue."""
        job.state = WAITING
        self._queue.put(job)

    def remove(self, job: Job) -> None:
        """Removes an image with all its files, and stops its restoration."""
        self._jobs.pop(job.id, None)
        job.remove()

    def _work(self) -> None:
        while True:
            job = self._queue.get()
            if not job.is_removed:
                self._run(job)

    def _run(self, job: Job) -> None:
        job.state = RUNNING
        try:
            self._restore(job, self.check_room)
            job.advance()  # removed in the meantime?
            job.state = DONE
        except Exception as error:
            if job.is_removed:  # its files are gone, which may be the error
                shutil.rmtree(job.folder, ignore_errors=True)
                return
            job.error = self._explain(error)
            if job.error is None:
                tell_traceback(error)
                job.error = (
                    f"{job.name}: unexpected error, see the terminal ({type(error).__name__})"
                )
            job.state = FAILED


def _stored_bytes(job: Job) -> int:
    stored = sum(map(_size, _files(job.folder)))
    return max(stored, job.upload_bytes) if job.state == UPLOADING else stored


def _files(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.path for entry in entries]
    except OSError:  # removed in the meantime
        return []


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # removed in the meantime
        return 0
