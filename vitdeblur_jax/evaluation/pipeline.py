"""Reads, restores and finishes images at the same time, so that the device waits little.

Restoration runs in the calling thread, one image after the other. Meanwhile other threads read the
next images, and measure and write the last ones. The number of images in memory is bounded.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple, TypeVar

READ_AHEAD = 2

Item = TypeVar("Item")
Given = TypeVar("Given")
Restored = TypeVar("Restored")


class Duration(NamedTuple):
    """How long a pipeline took.

    Attributes:
      seconds: From the first read to the end of the last finish.
      waited: The part of it in which nothing was restored.
    """

    seconds: float
    waited: float


def run_pipeline(
    items: Iterable[Item],
    read: Callable[[Item], Given],
    restore: Callable[[Item, Given], Restored],
    finish: Callable[[Item, Given, Restored], None],
    finishers: int,
) -> Duration:
    """Calls `finish(item, given, restore(item, given))` with `given = read(item)` for each item.

    An exception of any stage ends the pipeline and is raised. Items that are restored by then are
    still finished.

    Args:
      items: The items. At most `READ_AHEAD + 1 + finishers` are in memory.
      read: Called in other threads, before the item's turn.
      restore: Called in this thread, in order.
      finish: Called in other threads, of several items at once.
      finishers: Number of threads that finish items.
    """
    started, busy = time.perf_counter(), 0.0
    items, ahead, behind = iter(items), deque(), deque()
    with ThreadPoolExecutor(READ_AHEAD) as reading, ThreadPoolExecutor(finishers) as finishing:

        def read_ahead() -> None:
            for item in islice(items, READ_AHEAD - len(ahead)):
                ahead.append((item, reading.submit(read, item)))

        def restored(item: Item, future: Future) -> tuple[Item, Given, Restored]:
            nonlocal busy
            given = future.result()
            read_ahead()
            begun = time.perf_counter()
            result = restore(item, given)
            busy += time.perf_counter() - begun
            return item, given, result

        try:
            read_ahead()
            while ahead:
                while len(behind) > finishers or (behind and behind[0].done()):
                    behind.popleft().result()
                behind.append(finishing.submit(finish, *restored(*ahead.popleft())))
            for future in behind:
                future.result()
        finally:
            for _, future in ahead:
                future.cancel()
    seconds = time.perf_counter() - started
    return Duration(seconds, seconds - busy)
