"""Progress of long work: a bar on a terminal, a plain line every 30 seconds elsewhere."""

import time

from tqdm import tqdm

from vitdeblur_jax.utils.output import printable, standard_error, tell

_SECONDS_BETWEEN_LINES = 30


class Progress:
    """Counts finished work and shows rate and time left on standard error.

    Use it in a `with` statement. Call `advance` as work is finished, and `say` to print a line
    without breaking the bar.
    """

    def __init__(
        self,
        total: int | None,
        unit: str,
        done: int = 0,
        periodic_lines: bool = True,
        shown: bool = True,
    ):
        """Starts at `done` of `total`, which may be unknown without `periodic_lines`.

        Without `periodic_lines`, output that is not a terminal gets only the caller's own lines.
        Unless `shown`, nothing is printed, as in all processes but the first.
        """
        self._on_terminal = shown and standard_error.isatty()
        self._bar = tqdm(
            total=total,
            initial=done,
            unit=f" {unit}",
            file=standard_error,
            disable=not self._on_terminal,
            dynamic_ncols=True,
            leave=None,  # a bar inside another one is removed
        )
        self._total, self._unit, self._done, self._done_before = total, unit, done, done
        self._prints_lines = periodic_lines and shown and not self._on_terminal
        self._started = self._last_line = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._bar.close()

    def advance(self, count: int = 1) -> None:
        """Adds `count` units of finished work."""
        self._bar.update(count)
        self._done += count
        now = time.monotonic()
        if self._prints_lines and now - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = now
            rate = (self._done - self._done_before) / (now - self._started)
            left = (self._total - self._done) / rate
            tell(
                f"{self._done} of {self._total} {self._unit}, {rate:.3g} a second, "
                f"{left:.0f} s left"
            )

    def report(self, note: str, line: str) -> None:
        """Shows `note` after the bar until the next report; prints `line` if there is no bar."""
        if self._on_terminal:
            self._bar.set_postfix_str(printable(note))
        else:
            tell(line)

    def say(self, line: str) -> None:
        """Prints a line on standard error."""
        with tqdm.external_write_mode(standard_error):
            tell(line)
