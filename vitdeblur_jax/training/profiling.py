"""Profiles of training steps, for Perfetto or XProf."""

import contextlib
import tempfile
from collections.abc import Sequence
from typing import Any

import jax

from vitdeblur_jax.utils.buckets import AnyPath, filesystem, is_of_storage, is_remote
from vitdeblur_jax.utils.errors import UserError, one_line


class Profile:
    """Records a trace of consecutive steps.

    Args:
      folder: Folder for the trace.
      steps: (first, last), both included, counted from 0; or empty: no trace.
    """

    def __init__(self, folder: AnyPath, steps: Sequence[int]):
        self._folder, self._is_on = folder, False
        self._first, self._last = steps or (None, None)

    def before(self, step: int) -> None:
        """Starts the trace at the first step. Call it before each step."""
        if step == self._first:
            self._scratch = tempfile.TemporaryDirectory() if is_remote(self._folder) else None
            jax.profiler.start_trace(self._scratch.name if self._scratch else self._folder)
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
                with self._scratch or contextlib.nullcontext() as local:
                    jax.profiler.stop_trace()
                    if local:  # JAX writes only to disk
                        files = filesystem(self._folder)
                        files.put(f"{local}/", f"{self._folder}/", recursive=True)
            except Exception as error:
                if not (is_of_storage(error) or isinstance(error, jax.errors.JaxRuntimeError)):
                    raise
                message = f"the profile in {self._folder} cannot be written ({one_line(error)})"
                raise UserError(message) from error
