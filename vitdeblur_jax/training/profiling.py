"""A profile of chosen steps, to be looked at in Perfetto or XProf."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from vitdeblur_jax.utils.errors import UserError, one_line


class Profile:
    """Records the steps from a first to a last one.

    Args:
      folder: takes the trace.
      steps: (first, last), counted from 0, or nothing.
    """

    def __init__(self, folder: Path, steps: Sequence[int]):
        self._folder, self._is_on = folder, False
        self._first, self._last = steps or (None, None)

    def before(self, step: int) -> None:
        """To be called before each step."""
        if step == self._first:
            jax.profiler.start_trace(self._folder)
            self._is_on = True

    def after(self, step: int, results: Any) -> None:
        """To be called after each step, with what it gave."""
        if step == self._last:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Writes what was recorded, also of a run that ends before the last of the steps.

        Raises:
          UserError: it cannot be written.
        """
        if self._is_on:
            self._is_on = False
            try:
                jax.profiler.stop_trace()
            except (OSError, jax.errors.JaxRuntimeError) as error:
                message = f"the profile in {self._folder} cannot be written ({one_line(error)})"
                raise UserError(message) from error
