"""Experiment trackers: the log of a training run, sent as it is written.

A thread for each tracker sends the records, so that a slow server does not delay a step and a
server that is away does not end the run. `trackers/NAME.json` in the workdir has the id of the
tracker's run and the last step that was sent of each kind of record. A resumed run therefore
resumes the tracker's run, sends what the log has and the tracker lacks, and sends no step twice.
"""

import json
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from vitdeblur_jax.training.tracker_runs import RUNS, TrackerRun
from vitdeblur_jax.utils.buckets import AnyPath, absolute
from vitdeblur_jax.utils.errors import UserError, one_line
from vitdeblur_jax.utils.files import write_text
from vitdeblur_jax.utils.json_files import read_json

FOLDER = "trackers"
_NEW = {"id": None, "sent": {}}
_SECONDS_TO_RETRY = 30
_SECONDS_TO_END = 30
_KEPT_WITH_IMAGES = 20  # waiting records; images of later ones are not sent, to bound the memory


def connect(names: Sequence[str]) -> dict[str, TrackerRun]:
    """Returns the trackers by name; does not contact their servers.

    Raises:
      UserError: The package of a tracker is missing, or is not set up.
    """
    return {name: RUNS[name]() for name in names}


class _Record(NamedTuple):
    kind: str
    step: int
    values: Mapping[str, float]
    images: Mapping[str, UInt8[np.ndarray, "_ _ 3"]]
    seconds: float  # since the epoch


class Tracker:
    """Sends the records of a run's log to one tracker. Use it in one thread."""

    def __init__(
        self, name: str, run: TrackerRun, folder: AnyPath, is_new: bool, config: dict[str, Any]
    ):
        """Reads what was sent before.

        Args:
          name: Name of the tracker, for messages and its file.
          run: The tracker's run.
          folder: Folder of the training run; its name is that of a new run of the tracker.
          is_new: Whether to start a new run of the tracker.
          config: The training config as a dict.

        Raises:
          UserError: The tracker's file cannot be read.
        """
        self._name, self._run, self._config = name, run, config
        self._run_name = absolute(folder).name
        self._path = folder / FOLDER / f"{name}.json"
        self._state = _NEW if is_new else _saved_state(self._path)
        self._added = dict(self._state["sent"])
        self._is_open = self._ends = self._is_complete = False
        self._failure = self._told = None
        self._queue = queue.Queue()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)

    def begin(self, records: Iterable[Mapping[str, Any]], say: Callable[[str], None]) -> None:
        """Starts to send.

        Args:
          records: The records that the log has already. Those that were sent are skipped.
          say: Prints a line.
        """
        self._say = say
        self._thread.start()
        for record in records:
            values = {n: v for n, v in record.items() if n not in ("kind", "step")}
            finite = {n: v for n, v in values.items() if v is not None}
            if "kind" in record:  # else a line that someone added
                self.add(record["kind"], record["step"], finite, {})

    def add(
        self,
        kind: str,
        step: int,
        values: Mapping[str, float],
        images: Mapping[str, UInt8[np.ndarray, "_ _ 3"]],
    ) -> None:
        """Sends a record soon, unless its step was sent before. Never raises, never blocks.

        Args:
          kind: "train" or "validation".
          step: The number of steps done.
          values: Finite values by name.
          images: RGB images by name.
        """
        self._tell_of_failure()
        if step > self._added.get(kind, -1):
            self._added[kind] = step
            images = images if self._queue.qsize() < _KEPT_WITH_IMAGES else {}
            named = [{f"{kind}/{n}": v for n, v in part.items()} for part in (values, images)]
            self._queue.put(_Record(kind, step, *named, time.time()))

    def complete(self) -> None:
        """Says that the run is complete, so `close` marks the tracker's run as finished."""
        self._is_complete = True

    def close(self) -> None:
        """Sends what is left, for half a minute at most, and marks the tracker's run as ended."""
        if self._ends or not self._thread.ident:  # not begun: something else failed
            return
        self._ends = True
        self._queue.put(None)
        self._wake.set()
        self._thread.join(_SECONDS_TO_END)
        self._tell_of_failure()
        if self._added != self._state["sent"]:
            self._say(
                f"warning: {self._name} lacks the last records; the same command sends them again. "
                f"If its run was deleted, delete {self._path} to start a new one"
            )

    def _tell_of_failure(self):
        if self._failure is not None and self._told is None:
            self._told = self._failure
            self._say(
                f"warning: {self._name} failed ({self._failure}); training continues, and the "
                "missing values, but not all images, are sent when it answers again"
            )

    def _work(self):
        while (record := self._queue.get()) is not None:
            while not self._tries(self._send, record):
                self._wake.wait(_SECONDS_TO_RETRY)
                if self._ends:
                    return
        if self._is_open:
            self._tries(self._run.finish, self._is_complete)

    def _tries(self, function, argument):
        try:
            function(argument)
        except Exception as error:
            self._failure = one_line(error)
            return False
        return True

    def _send(self, record):
        if not self._is_open:
            run_id = self._run.open(self._state["id"], self._run_name, self._config)
            self._write(id=run_id)
            self._is_open = True
        sent = self._state["sent"]
        # Before it is sent: a process that is killed in between loses a record, and sends none
        # twice.
        self._write(sent={**sent, record.kind: record.step})
        try:
            self._run.add_values(record.step, record.values, record.seconds)
        except Exception:
            self._write(sent=sent)
            raise
        if record.images:
            self._tries(lambda images: self._run.add_images(record.step, images), record.images)

    def _write(self, **changes):
        self._state = {**self._state, **changes}
        self._path.parent.mkdir(exist_ok=True)
        write_text(self._path, json.dumps(self._state) + "\n")


def _saved_state(path):
    if not path.exists():
        return _NEW
    state = read_json(path)
    if set(state) != set(_NEW) or not isinstance(state["sent"], dict):
        raise UserError(f"{path} is damaged; delete it, and the tracker starts a new run")
    return state
