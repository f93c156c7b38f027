"""Means of what the training steps measure, without the device ever waiting for the host."""

import math
from collections import deque
from collections.abc import Sequence

import jax
from jaxtyping import Array, Shaped

_PENDING = 8  # steps that the host may run ahead of the device


class NotFiniteError(ArithmeticError):
    """A step measured something that is not finite.

    Attributes:
      step: which one.
      names: its metrics that are nan or infinite.
      images: the places in the batch of the images to blame, where that was measured.
    """

    def __init__(self, step: int, names: Sequence[str], images: Sequence[int] = ()):
        super().__init__(f"step {step} is not finite: {', '.join(names) or 'no metric says why'}")
        self.step, self.names, self.images = step, tuple(names), tuple(images)


class MetricsWindow:
    """Sums the metrics of the steps since the last `reset`.

    A step's metrics are read from the device when eight later steps have been added, or when
    something here asks for all: then `add`, `drain`, `means`, `reset` and `state` raise
    `NotFiniteError` for a step whose metric "finite" is false.
    """

    def __init__(self, sums: dict | None = None, allowed_skips: int = 0):
        """Begins a window, or goes on with one.

        Args:
          sums: what `state` gave.
          allowed_skips: steps since the beginning of the run that may be not finite. They are
            counted and left out of the means; the next one raises.
        """
        begun = sums or {"steps": 0, "skips": 0, "sums": {}}
        self._steps, self._skips, self._sums = begun["steps"], begun["skips"], dict(begun["sums"])
        self._allowed_skips = allowed_skips
        self._pending = deque()

    def add(self, step: int, metrics: dict[str, Shaped[Array, "..."]]) -> None:
        """Adds what a step measured; waits for the step that was added eight calls ago.

        Args:
          step: its number.
          metrics: scalars on the device, under the same names in every step. Two are no numbers to
            average and need not be there: "finite", whether the step counts, and "images_finite"
            (B), whether each of its images does.
        """
        self._pending.append((step, metrics))
        if len(self._pending) > _PENDING:
            self._read(*self._pending.popleft())

    def drain(self) -> None:
        """Waits for all steps that were added."""
        while self._pending:
            self._read(*self._pending.popleft())

    def means(self) -> dict[str, float]:
        """Returns the mean of each number, taken in float64; empty without a step."""
        self.drain()
        return {name: total / self._steps for name, total in self._sums.items()}

    def reset(self) -> None:
        """Begins anew behind the steps that were added."""
        self.drain()
        self._steps, self._sums = 0, {}

    def state(self) -> dict:
        """Returns sums and counts, which JSON keeps exactly, for the constructor to go on from."""
        self.drain()
        return {"steps": self._steps, "skips": self._skips, "sums": dict(self._sums)}

    def _read(self, step, metrics):
        metrics = jax.device_get(metrics)
        finite, images_finite = metrics.pop("finite", True), metrics.pop("images_finite", ())
        values = {name: float(value) for name, value in metrics.items()}
        if finite:
            self._steps += 1
            self._sums = {name: self._sums.get(name, 0.0) + value for name, value in values.items()}
            return
        self._skips += 1
        if self._skips > self._allowed_skips:
            names = [name for name, value in values.items() if not math.isfinite(value)]
            images = [image for image, is_finite in enumerate(images_finite) if not is_finite]
            raise NotFiniteError(step, names, images)
