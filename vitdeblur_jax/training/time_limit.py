"""The time limit of a run, `time_limit_s`: how much of it is over.

The limit covers the whole of `train`: the compilation, the steps, the last validation and the last
checkpoint. So the steps end earlier, by the time that validation and checkpoint took before, and a
fifth of it. A run with a time limit validates and saves before its first step to know that time.

The schedule "wsd" follows `progress`, not the step. So the decay is complete when the time is over,
whatever the speed of the machine. The checkpoint holds the time that a run has taken; the time
between its processes does not count. With several processes, the clock of the first one counts.
"""

import contextlib
import time
from collections.abc import Callable, Iterator

from vitdeblur_jax.distributed.processes import gather
from vitdeblur_jax.utils.errors import UserError

_CLOSING_MARGIN = 1.2


class TimeLimit:
    """Measures the time of a run.

    Attributes:
      progress: The share of the time for steps that is over, 0 to 1; 1: the run is complete. 0 in a
        run without a limit.
      elapsed_s: The time that the run has taken, at the last `tick`.
    """

    def __init__(self, limit_s: float | int, now: Callable[[], float] = time.monotonic):
        """Starts the clock.

        Args:
          limit_s: The limit; 0: none.
          now: The clock, in seconds.
        """
        self._limit_s, self._now, self._began = limit_s, now, now()
        self._closing_s = self.progress = self.elapsed_s = 0.0
        self._closing_began = None

    def __bool__(self) -> bool:
        """Returns whether there is a limit."""
        return self._limit_s > 0

    def resume(self, state: dict) -> None:
        """Adds the time that the run took before; `state` is the result of `state`."""
        self._began -= state["elapsed_s"]
        self.elapsed_s = state["elapsed_s"]
        self._closing_s, self.progress = state["closing_s"], state["progress"]

    def state(self) -> dict[str, float]:
        """Returns what `resume` needs. JSON keeps it exactly.

        In `closing`, its time so far counts: the first checkpoint is saved there.
        """
        now, closing_s = self._now(), self._closing_s
        if self._closing_began is not None:
            closing_s = max(closing_s, now - self._closing_began)
        return {"elapsed_s": now - self._began, "closing_s": closing_s, "progress": self.progress}

    def tick(self) -> None:
        """Reads the clock. All processes must call it equally often.

        Raises:
          UserError: Before the first step, validation and checkpoint took as long as the limit.
        """
        if not self:
            return
        own = self._now() - self._began, self._closing_s
        self.elapsed_s, self._closing_s = gather(own)[0]
        if self._for_steps_s <= 0 and not self.progress:
            raise UserError(
                f"time_limit_s is {self._limit_s:g}, but the validation and the checkpoint before "
                f"the first step took {self._closing_s:.0f} s; raise it, or lower "
                "validation.num_images"
            )
        is_over = self.elapsed_s >= self._for_steps_s
        self.progress = 1.0 if is_over else max(self.progress, self.elapsed_s / self._for_steps_s)

    def seconds_left(self) -> float:
        """Returns the time that is left until the limit."""
        return max(0.0, self._limit_s - (self._now() - self._began))

    def allows_closing(self) -> bool:
        """Returns whether validation and checkpoint take at most half of the time left for steps.

        Otherwise the decay would have too few steps.
        """
        return not self or 2 * self._closing_s <= self._for_steps_s - self.elapsed_s

    def knows_closing(self) -> bool:
        """Returns whether `closing` has measured its time, in this process or before."""
        return self._closing_s > 0

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        """Measures the block, which validates and saves. The last one counts."""
        self._closing_began = self._now()
        try:
            yield
            self._closing_s = self._now() - self._closing_began
        finally:
            self._closing_began = None

    @property
    def _for_steps_s(self):
        return self._limit_s - _CLOSING_MARGIN * self._closing_s
