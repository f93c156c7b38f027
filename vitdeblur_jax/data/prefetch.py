"""Prefetching: batches from threads or worker processes, and their transfer to the devices."""

import atexit
import contextlib
import gc
import multiprocessing
import os
import signal
import threading
import weakref
from collections import deque
from collections.abc import Collection
from functools import partial
from typing import Any

import grain
import jax
from absl import flags

from vitdeblur_jax.utils.errors import UserError

Batch = dict[str, Any]
_OPEN: "weakref.WeakSet[TrainBatches]" = weakref.WeakSet()
_MOST_THREADS = 16
_WORKER_DIED = "terminated unexpectedly"  # in Grain's message
_UNGUARDED = 64  # status of a worker; EX_USAGE of sysexits.h
_PROFILING_FLAG = "grain_enable_multiprocess_worker_profiling"


class TrainBatches(grain.DatasetIterator[Batch]):
    """Iterates over batches and prefetches the next ones.

    Its state is the number of the next batch. It does not depend on the number of workers and
    processes, so a run can resume with others. Orbax saves it like Grain's own iterators.

    Attributes:
      batches: All batches by number: `batches[step]` makes the batch of a step again.
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
        except BaseException:  # also Ctrl-C; Grain's iterator is useless without its workers
            self.close()
            raise
        self._next_index += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """Returns {"next_index": number of the next batch}."""
        return {"next_index": self._next_index}

    def set_state(self, state: dict[str, int]) -> None:
        """Moves to another batch without reading those in between."""
        self.close()
        self._next_index = state["next_index"]

    def close(self) -> None:
        """Ends the workers; the next batch starts them again."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None


@atexit.register
def _close_all() -> None:
    """Ends the workers at exit. Grain does so too late and leaves messages and shared memory."""
    for batches in list(_OPEN):
        batches.close()
    gc.collect()  # only then JAX frees the shared memory of the workers


def _read_ahead(batches: grain.MapDataset[Batch], workers: int) -> grain.DatasetIterator[Batch]:
    # Each thread makes a whole batch, so memory holds one batch per thread.
    threads = 1 if workers else min(os.cpu_count() or 1, _MOST_THREADS)
    reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    processes = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
    # Grain 0.2.18 reads this flag even if the program parses none (google/grain#1355).
    if _PROFILING_FLAG in flags.FLAGS:
        flags.FLAGS[_PROFILING_FLAG].present = True
    return iter(batches.to_iter_dataset(reading).mp_prefetch(processes, _live_with_parent))


def _end_worker_in_unguarded_script() -> None:
    """Ends this process if it is a new worker that runs the whole script of its parent.

    A worker imports the script first. Without `if __name__ == "__main__":` the script would start
    workers again, and Python's error message has hundreds of lines.
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
    """Makes a worker ignore Ctrl-C and SIGTERM and end with its parent.

    Both processes may receive these signals; the parent handles them.
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
    """Returns the batches as JAX arrays and starts their transfer early.

    Args:
      batches: The rows of each batch that this process reads.
      sharding: Sharding of the whole batch over the devices of all processes.
      depth: Number of batches on the devices or in transfer, including the current one.
      leave: Names of arrays that stay on the host.
    """
    return DeviceBatches(batches, sharding, depth, leave)


class DeviceBatches(grain.DatasetIterator[Batch]):
    """See `prefetch_to_device`. Its state is the state of the next batch it returns."""

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
        """Jumps to another batch."""
        self._queue.clear()
        self._batches.set_state(state)

    def close(self) -> None:
        """Closes `batches`, and resets them to the next batch that was not returned yet."""
        self.set_state(self.get_state())
        self._batches.close()
