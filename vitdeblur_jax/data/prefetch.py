"""Reading ahead: batches from threads or worker processes, and their way to the devices."""

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
_WORKER_DIED = "terminated unexpectedly"  # what Grain says
_UNGUARDED = 64  # status of a worker; EX_USAGE of sysexits.h
_PROFILING_FLAG = "grain_enable_multiprocess_worker_profiling"


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
