"""Means of the metrics of training steps, read without making the device wait for the host."""

import math
from collections import deque
from collections.abc import Sequence

import jax
from jaxtyping import Array, Shaped

_PENDING = 8  # number of steps by which the host may run ahead of the device


class NotFiniteError(ArithmeticError):
    """The loss or gradient of a step is not finite.

    Attributes:
      step: Number of the step.
      names: Names of its metrics that are nan or infinite.
      images: Indices in the batch of the images whose loss is not finite, if measured.
    """

    def __init__(self, step: int, names: Sequence[str], images: Sequence[int] = ()):
        super().__init__(f"step {step} is not finite: {', '.join(names) or 'no metric shows why'}")
        self.step, self.names, self.images = step, tuple(names), tuple(images)


class MetricsWindow:
    """Sums the metrics of the steps since the last `reset`.

    The metrics of a step are read from the device once eight later steps are added, or when
    `drain`, `means`, `reset` or `state` is called. Each of these methods, and `add`, raises
    `NotFiniteError` when it reads a step whose metric "finite" is false.
    """

    def __init__(self, sums: dict | None = None, allowed_skips: int = 0):
        """Starts a window, or resumes one.

        Args:
          sums: The result of `state`, to resume from.
          allowed_skips: Number of steps in the run that may be not finite. They are counted and
            excluded from the means; the next one raises `NotFiniteError`.
        """
        begun = sums or {"steps": 0, "skips": 0, "sums": {}}
        self._steps, self._skips, self._sums = begun["steps"], begun["skips"], dict(begun["sums"])
        self._allowed_skips = allowed_skips
        self._pending = deque()

    def add(self, step: int, metrics: dict[str, Shaped[Array, "..."]]) -> None:
        """Adds the metrics of a step; waits for the step that was added eight calls earlier.

        Args:
          step: Number of the step.
          metrics: Scalars on the device, with the same names in every step. Two optional entries
            are not averaged: "finite" (bool, whether the step counts) and "images_finite" (bool,
            shape B, whether the loss of each image is finite).
        """
        self._pending.append((step, metrics))
        if len(self._pending) > _PENDING:
            self._read(*self._pending.popleft())

    def drain(self) -> None:
        """Waits for all added steps."""
        while self._pending:
            self._read(*self._pending.popleft())

    def means(self) -> dict[str, float]:
        """Returns the mean of each metric, computed in float64; empty without a step."""
        self.drain()
        return {name: total / self._steps for name, total in self._sums.items()}

    def reset(self) -> None:
        """Starts a new window after the added steps."""
        self.drain()
        self._steps, self._sums = 0, {}

    def state(self) -> dict:
        """Returns sums and counts, from which the constructor resumes. JSON keeps them exactly."""
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
