"""The log of a training run: JSON lines, TensorBoard curves and images, and progress."""

import contextlib
import json
import math
import time
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import UInt8

from vitdeblur_jax.training.event_file import EventFile
from vitdeblur_jax.training.trackers import Tracker
from vitdeblur_jax.utils.buckets import AnyPath, as_user_error, is_remote
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.files import write_text
from vitdeblur_jax.utils.json_files import parse_json
from vitdeblur_jax.utils.progress import Progress


class TrainingLog:
    """Writes `log.jsonl` and `tensorboard/` in a folder and shows progress on standard error.

    Use it in a `with` statement, in one process. Each call writes to disk before it returns, so a
    killed run loses nothing.
    """

    def __init__(
        self,
        folder: AnyPath,
        first_step: int,
        total_steps: int | None,
        trackers: Sequence[Tracker] = (),
        *,
        is_new: bool = False,
    ):
        """Resumes the log in `folder`, or starts one.

        Steps after `first_step` and incomplete lines, left by a killed run, are removed from
        `log.jsonl` and hidden in TensorBoard.

        Args:
          folder: Folder of the run; created if missing.
          first_step: Number of steps already done.
          total_steps: Last step of the run; None: it has a time limit.
          trackers: Trackers that get the same records and images.
          is_new: Also remove the records of step 0, of a run that was killed before it had a
            checkpoint.

        Raises:
          UserError: tensorboardX is missing, or the folder cannot be written.
        """
        self.folder, self._path = folder, folder / "log.jsonl"
        with as_user_error(self._path):
            folder.mkdir(parents=True, exist_ok=True)
        last_kept = -1 if is_new else first_step
        self._lines = _Lines(self._path, last_kept)
        self._total_steps = total_steps
        self._shown_step = self._last_step = first_step
        self._steady_since = None  # step and time of the first `train` call, after compilation
        with contextlib.ExitStack() as resources:
            events = EventFile(folder / "tensorboard", purge_step=last_kept + 1)
            self._events = resources.enter_context(contextlib.closing(events))
            progress = Progress(total_steps, "steps", done=first_step, periodic_lines=False)
            self._progress = resources.enter_context(progress)
            self._trackers = trackers
            for tracker in trackers:
                resources.enter_context(contextlib.closing(tracker))
                tracker.begin(self._records(), self.say)
            self._resources = resources.pop_all()
        self._images, self._seconds_waiting = 0, 0.0
        self._interval_began = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Ends the progress bar and closes the files."""
        self._resources.close()

    def complete(self) -> None:
        """Marks the run as complete for the trackers."""
        for tracker in self._trackers:
            tracker.complete()

    def advance(self, step: int, *, images: int, seconds_waiting: float) -> None:
        """Moves the progress bar to `step`.

        Args:
          step: Steps done so far.
          images: Number of images in the step's batch.
          seconds_waiting: Time the step waited for its batch.
        """
        self._progress.advance(step - self._shown_step)
        self._shown_step = step
        self._images += images
        self._seconds_waiting += seconds_waiting

    @contextlib.contextmanager
    def not_training(self) -> Iterator[None]:
        """Excludes the time of its block from the rates. Blocks must not be nested."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._interval_began += time.monotonic() - began

    def train(self, step: int, values: dict[str, float]) -> None:
        """Records the steps since the previous call, with their rates.

        Args:
          step: The last of these steps.
          values: Means over these steps, including "loss". Values that are not finite become null
            in the file.

        Raises:
          UserError: A file cannot be written.
        """
        now = time.monotonic()
        seconds = max(now - self._interval_began, 1e-9)
        rates = {
            "steps_per_second": (step - self._last_step) / seconds,
            "images_per_second": self._images / seconds,
            "waiting_share": min(self._seconds_waiting / seconds, 1.0),
        }
        self._record("train", step, {**values, **rates})
        self._report(
            step, values.get("loss", math.nan), *rates.values(), self._time_left(step, now)
        )
        self._interval_began, self._last_step = now, step
        self._images, self._seconds_waiting = 0, 0.0
        self._steady_since = self._steady_since or (step, now)

    def validation(
        self,
        step: int,
        values: dict[str, float],
        images: dict[str, UInt8[np.ndarray, "_ _ 3"]],
    ) -> None:
        """Records a validation and prints its values, one line for each data set.

        Args:
          step: Number of training steps before the validation.
          values: Means over the validation images; with several data sets, each under `SET/`.
            Values that are not finite become null in the file.
          images: RGB images for TensorBoard, by name.

        Raises:
          UserError: A file cannot be written.
        """
        self._record("validation", step, values, images)
        by_set = {}
        for name, value in values.items():
            data_set, _, figure = name.rpartition("/")
            by_set.setdefault(data_set, []).append(f"{figure} {_digits(value, 4)}")
        for data_set, shown in by_set.items():
            where = f" on {data_set}" if data_set else ""
            self.say(f"validation at step {step}{where}: {', '.join(shown)}")

    def say(self, line: str) -> None:
        """Prints a line above the progress bar."""
        self._progress.say(line)

    def last(self, kind: str) -> dict | None:
        """Returns the last record of a kind, "train" or "validation"; None if there is none.

        Raises:
          UserError: The file cannot be read.
        """
        records = reversed(self._records())
        return next((record for record in records if record.get("kind") == kind), None)

    def _records(self):
        lines = self._lines.read().splitlines()
        return [parse_json(line, str(self._path)) for line in lines]

    def _record(self, kind, step, values, images=None):
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        record = {"kind": kind, "step": step, **{name: finite.get(name) for name in values}}
        self._lines.append(json.dumps(record, allow_nan=False) + "\n")
        for target in (self._events, *self._trackers):
            target.add(kind, step, finite, images or {})

    def _report(self, step, loss, steps_rate, images_rate, waiting_share, seconds_left):
        figures = [
            f"loss {_digits(loss)}",
            f"{_digits(steps_rate)} steps/s",
            f"{_digits(images_rate)} images/s",
        ]
        left = [] if seconds_left is None else [f"{_duration(seconds_left)} left"]
        share = f"{100 * waiting_share:.0f} %"
        total = f" of {self._total_steps}" if self._total_steps else ""
        self._progress.report(
            f"{figures[0]}, {figures[2]}, waiting {share}",  # the bar shows the rest
            f"step {step}{total}: {', '.join(figures + left)}, {share} waiting for data",
        )

    def _time_left(self, step, now):
        if None in (self._total_steps, self._steady_since) or step == self._steady_since[0]:
            return None
        steady_step, steady_time = self._steady_since  # includes the time of later validations
        return (self._total_steps - step) * (now - steady_time) / (step - steady_step)


class SilentLog:
    """A `TrainingLog` that writes nothing, for the other processes."""

    def __init__(self, folder: AnyPath):
        self.folder = folder

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def complete(self) -> None: ...

    def advance(self, step, *, images, seconds_waiting) -> None: ...

    def not_training(self):
        return contextlib.nullcontext()

    def train(self, step, values) -> None: ...

    def validation(self, step, values, images) -> None: ...

    def say(self, line) -> None: ...

    def last(self, kind) -> None: ...


class _Lines:
    """The file `log.jsonl`. In a bucket, where nothing can be appended, it is written anew."""

    def __init__(self, path, last_step):
        self._path, self._is_remote = path, is_remote(path)
        with as_user_error(path):
            if not path.exists():
                write_text(path, "")
            text = path.read_bytes().decode(errors="replace")
            lines = (line for line in text.splitlines() if _step_of(line) <= last_step)
            kept = "".join(f"{line}\n" for line in lines)
            if kept != text:
                write_text(path, kept)
        self._text = kept if self._is_remote else None

    def append(self, line):
        with as_user_error(self._path):
            if self._is_remote:
                self._text += line
                self._path.write_text(self._text)
            else:
                with open(self._path, "a") as file:
                    file.write(line)

    def read(self):
        if self._is_remote:
            return self._text
        with as_user_error(self._path, "read"):
            return self._path.read_text()


def _step_of(line: str) -> int | float:
    """Returns the step of a record; infinity for an incomplete line."""
    try:
        step = parse_json(line, "a line of the log").get("step")
    except UserError:
        return math.inf
    return step if isinstance(step, int) else math.inf


def _digits(value: float, count: int = 3) -> str:
    return f"{value:.{count}g}" if abs(value) < 10**count - 0.5 else f"{value:.0f}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, days = minutes // 60, minutes // 1440
    if hours == 0:
        return f"{minutes} min"
    return f"{days} d {hours % 24} h" if days else f"{hours} h {minutes % 60} min"
