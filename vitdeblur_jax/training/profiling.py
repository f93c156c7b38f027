"""Profiles of training steps, for Perfetto or XProf."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from vitdeblur_jax.utils.errors import UserError, one_line


class Profile:
    """Records a trace of consecutive steps.

    Args:
      folder: Folder for the trace.
      steps: (first, last), both included, counted from 0; or empty: no trace.
    """

    def __init__(self, folder: Path, steps: Sequence[int]):
        self._folder, self._is_on = folder, False
        self._first, self._last = steps or (None, None)

    def before(self, step: int) -> None:
        """Starts the trace at the first step. Call it before each step."""
        if step == self._first:
            jax.profiler.start_trace(self._folder)
            self._is_on = True

    def after(self, step: int, results: Any) -> None:
        """Ends the trace after the last step. Call it after each step, with its results."""
        if step == self._last:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Writes the trace, if one is being recorded.

        Raises:
          UserError: The trace cannot be written.
        """
        if self._is_on:
            self._is_on = False
            try:
                jax.profiler.stop_trace()
            except (OSError, jax.errors.JaxRuntimeError) as error:
                message = f"the profile in {self._folder} cannot be written ({one_line(error)})"
                raise UserError(message) from error
