"""Batches for training, with Grain: which example comes at which step, and how it gets to a device.

The batch of a step is a pure function of the settings and the step: a record's place in its epoch
comes from (seed, epoch); its crop, flips and synthetic defocus from (seed, epoch, record). So a run
resumes at any step without replaying the others, and neither workers nor threads, which only read
ahead, change what comes out.
"""

import atexit
import contextlib
import gc
import multiprocessing
import os
import signal
import threading
import weakref
from collections import deque
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import grain
import jax
import numpy as np
from absl import flags

from vitdeblur_jax.data.defocus.settings import SynthesisSettings
from vitdeblur_jax.data.sources import SyntheticSource
from vitdeblur_jax.data.transforms import Example, random_crop_and_flips
from vitdeblur_jax.utils.errors import UserError

Batch = dict[str, Any]
_OPEN: "weakref.WeakSet[TrainBatches]" = weakref.WeakSet()
_MOST_THREADS = 16
_MOST_RECORDS = 2**31 - 1  # as an int32, on devices too
_ENDLESS = 2**40  # batches; Grain counts in 64 bits
_WORKER_DIED = "terminated unexpectedly"  # what Grain says
_UNGUARDED = 64  # status of a worker; EX_USAGE of sysexits.h
_PROFILING_FLAG = "grain_enable_multiprocess_worker_profiling"


@runtime_checkable
class Source(Protocol):
    """Examples by number, each read when asked for; see `sources`."""

    def __len__(self) -> int: ...
    def __getitem__(self, record: int) -> Example: ...


def make_train_dataset(
    source: Source,
    *,
    seed: int,
    batch_size: int,
    crop: int,
    first_record: int = 0,
    rows: Sequence[int] | None = None,
    vertical_flip: bool = False,
    quarter_turns: bool = False,
    workers: int = 0,
) -> "TrainBatches":
    """Returns the endless, checkpointable iterator over training batches, or some rows of each.

    Every epoch has its own order and takes each record once; a batch may hold the end of one epoch
    and the beginning of the next.

    Args:
      source: the examples; pickled once a worker.
      seed: 0 or more; decides on order and augmentation.
      batch_size: of the whole batch.
      crop: side of the crops, pixels.
      first_record: where in the endless row of records the first batch begins, so that one dataset
        can go on where another, of another batch size or crop, ended.
      rows: which rows of each batch to read, of several processes each its own; None: all.
      vertical_flip: see `random_crop_and_flips`.
      quarter_turns: see `random_crop_and_flips`.
      workers: processes that read and augment; with 0, threads of this process do, which is enough
        where decoding is most of the work, for decoders don't hold Python's lock.

    Returns:
      An iterator over dicts of stacked arrays: `blurred` (B x crop x crop x 3 or 6) and `sharp`
      (B x crop x crop x 3), uint8 or uint16 as the source has them, to be converted by `unit_range`
      on the device; `radius` (B x crop x crop, float32) where the source has it; and `record` (B,
      int32), the numbers of the examples in the source.

    Raises:
      UserError: an empty source, or one of more than 2^31 - 1 examples; a negative seed; an
        empty batch. Later, from reading: a crop that is larger than an image, whatever the source
        raises, or a worker that died, as they do if a script is not guarded by
        `if __name__ == "__main__":`.
    """
    _check(source, seed, batch_size)
    rows = list(range(batch_size) if rows is None else rows)
    flips = {"vertical_flip": vertical_flip, "quarter_turns": quarter_turns}
    # Grain adds the epoch to the seed: unless hashed, seeds 0 and 1 would share their orders.
    shuffle_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    examples = (
        grain.MapDataset.range(len(source))
        .map_with_index(partial(_augmented_example, source, seed, crop, flips))
        .shuffle(seed=shuffle_seed)
        .repeat()[first_record:]
    )
    batches = (
        grain.MapDataset.range(_ENDLESS * len(rows))
        .map(partial(_example_of_row, examples, batch_size, rows))
        .batch(len(rows), drop_remainder=True)
    )
    return TrainBatches(batches, workers)


def synthetic_batches(
    images: Sequence[Path],
    *,
    seed: int,
    batch_size: int,
    crop: int,
    settings: SynthesisSettings | None = None,
) -> "TrainBatches":
    """Returns endless training batches of crops of sharp images, put out of focus.

    Args:
      images: their files.
      seed: 0 or more; decides on everything that is drawn.
      batch_size: 1 or more.
      crop: side of the crops, pixels.
      settings: how scenes and lenses are drawn; by default as `SynthesisSettings` has it.

    Returns:
      An iterator over dicts: `blurred` (B x crop x crop x 3, or 6 where `settings.dual_pixel`) and
      `sharp` (B x crop x crop x 3), uint8; `radius` (B x crop x crop, float32, pixels; below 0 in
      front of the plane of focus); and `record` (B, int32), which image each crop is of. Each
      epoch takes every image once, with another crop and another blur.

    Raises:
      UserError: no images, a negative seed, an empty batch. Later, from reading: a crop below
        1 or larger than an image, a file that cannot be read.
    """
    source = SyntheticSource(images, settings or SynthesisSettings(), seed, crop=crop)
    return make_train_dataset(source, seed=seed, batch_size=batch_size, crop=crop)


def _example_of_row(examples, batch_size: int, rows: list[int], number: int) -> Example:
    step, place = divmod(number, len(rows))
    return examples[step * batch_size + rows[place]]


def _check(source, seed, batch_size):
    if not len(source):
        raise UserError("there is nothing to train on: the source holds no example")
    if len(source) > _MOST_RECORDS:
        raise UserError(
            f"the source has {len(source)} examples, more than the {_MOST_RECORDS} supported"
        )
    if seed < 0:
        raise UserError(f"the seed is {seed}; it must be 0 or more")
    if batch_size < 1:
        raise UserError(f"the batch size is {batch_size}; it must be 1 or more")


def _augmented_example(
    source: Source, seed: int, crop: int, flips: dict[str, bool], count: int, record: int
) -> Example:
    """Returns record `count % len(source)` as epoch `count // len(source)` sees it."""
    epoch = count // len(source)
    rng = np.random.default_rng((seed, epoch, record))
    is_drawn = isinstance(source, SyntheticSource)
    example = source.at_epoch(record, epoch) if is_drawn else source[record]
    if "sharp" not in example:
        raise UserError(f"{example['name']}: no sharp image goes with it, so none to learn from")
    example = random_crop_and_flips(example, rng, crop, **flips)
    return {key: example[key] for key in example if key != "name"} | {"record": np.int32(record)}


class TrainBatches(grain.DatasetIterator[Batch]):
    """Iterates over batches, reading ahead.

    Its state is the number of the next batch, whatever the number of workers and processes, so a
    run may go on with others. Orbax saves it as it saves Grain's own iterators.

    Attributes:
      batches: all of them by number: `batches[step]` makes the batch of a step anew.
    """

    def __init__(self, batches: grain.MapDataset[Batch], workers: int):
        super().__init__()
        self.batches, self._workers = batches, workers
        self._next_index = 0
        self._ahead: grain.DatasetIterator[Batch] | None = None
        _OPEN.add(self)

    def __next__(self) -> Batch:
        if self._ahead is None:
            _end_worker_in_unguarded_script()
            self._ahead = _read_ahead(self.batches[self._next_index :], self._workers)
        try:
            batch = next(self._ahead)
        except RuntimeError as error:
            self.close()
            if _WORKER_DIED not in str(error):
                raise
            raise UserError(_why_a_worker_died(str(error))) from None
        except BaseException:  # Ctrl-C too; without its workers, Grain's iterator is of no more use
            self.close()
            raise
        self._next_index += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """Returns {"next_index": number of the next batch}."""
        return {"next_index": self._next_index}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes to another batch, without reading those in between."""
        self.close()
        self._next_index = state["next_index"]

    def close(self) -> None:
        """Ends the workers; the next batch would start them again."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None


@atexit.register
def _close_all() -> None:
    """Grain ends its workers too late at exit, which leaves noise and shared memory behind."""
    for batches in list(_OPEN):
        batches.close()
    gc.collect()  # JAX drops only then what it no longer needs of the workers' shared memory


def _read_ahead(batches: grain.MapDataset[Batch], workers: int) -> grain.DatasetIterator[Batch]:
    # A thread makes a whole batch, so as many batches lie in memory as there are threads.
    threads = 1 if workers else min(os.cpu_count() or 1, _MOST_THREADS)
    reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    processes = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
    # Grain 0.2.18 asks for this flag even in a program that parses none (google/grain#1355).
    if _PROFILING_FLAG in flags.FLAGS:
        flags.FLAGS[_PROFILING_FLAG].present = True
    return iter(batches.to_iter_dataset(reading).mp_prefetch(processes, _live_with_parent))


def _end_worker_in_unguarded_script() -> None:
    """Ends this process if it is a new worker that runs its parent's script as a whole.

    A worker imports the script first. Without a guard around what the script does, it would start
    workers of its own there, of which Python's message is hundreds of lines long.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        os._exit(_UNGUARDED)


def _why_a_worker_died(message: str) -> str:
    status = message.partition("exit code ")[2].partition(".")[0]
    if status == str(_UNGUARDED):
        return (
            "a script that reads with workers is imported by each of them: put what it does under "
            "`if __name__ == '__main__':`, or leave workers out"
        )
    return (
        f"a worker that reads data ended with status {status or 'unknown'}, and -9 means for want "
        "of memory; use fewer workers"
    )


def _live_with_parent(worker: int, workers: int) -> None:
    """Lets a worker outlive signals that the parent gets too and acts on, but not its parent.

    Ctrl-C goes to both, and a cluster may send SIGTERM to both.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def prefetch_to_device(
    batches: grain.DatasetIterator[Batch],
    sharding: jax.sharding.Sharding,
    depth: int = 2,
    leave: Collection[str] = (),
) -> "DeviceBatches":
    """Returns the same batches as JAX arrays, whose transfer begins before they are asked for.

    Args:
      batches: this process's rows of each batch.
      sharding: of the whole batch over the devices of all processes.
      depth: batches on the devices or on their way, the one just handed out among them.
      leave: names of arrays that the devices do not need.
    """
    return DeviceBatches(batches, sharding, depth, leave)


class DeviceBatches(grain.DatasetIterator[Batch]):
    """See `prefetch_to_device`. Its state is that of the next batch it hands out."""

    def __init__(
        self,
        batches: grain.DatasetIterator[Batch],
        sharding: jax.sharding.Sharding,
        depth: int,
        leave: Collection[str],
    ):
        super().__init__()
        self._batches, self._depth, self._leave = batches, depth, leave
        self._place = partial(jax.make_array_from_process_local_data, sharding)
        self._queue: deque[tuple[dict, Batch]] = deque()

    def __next__(self) -> Batch:
        with contextlib.suppress(StopIteration):
            while len(self._queue) < self._depth:
                state = self._batches.get_state()
                batch = next(self._batches)
                taken = {key: batch[key] for key in batch if key not in self._leave}
                self._queue.append((state, jax.tree.map(self._place, taken)))
        if not self._queue:
            raise StopIteration
        return self._queue.popleft()[1]

    def get_state(self) -> dict:
        """Returns the state of `batches` before the next batch."""
        return self._queue[0][0] if self._queue else self._batches.get_state()

    def set_state(self, state: dict) -> None:
        """Goes to another batch."""
        self._queue.clear()
        self._batches.set_state(state)

    def close(self) -> None:
        """Closes `batches`, back where the next batch to hand out lies."""
        self.set_state(self.get_state())
        self._batches.close()
