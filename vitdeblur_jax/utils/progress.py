"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

import time

from tqdm import tqdm

from vitdeblur_jax.utils.output import printable, standard_error, tell

_SECONDS_BETWEEN_LINES = 30


class Progress:
    """Counts work done and shows rate and time left on standard error.

    To be used in a `with` statement; call `advance` as work is done, `say` to print a line in
    between without breaking the bar.
    """

    def __init__(self, total: int, unit: str, done: int = 0, periodic_lines: bool = True):
        """Begins at `done` of `total`.

        Without `periodic_lines` nothing but what the caller says is printed off a terminal.
        """
        self._on_terminal = standard_error.isatty()
        self._bar = tqdm(
            total=total,
            initial=done,
            unit=f" {unit}",
            file=standard_error,
            disable=not self._on_terminal,
            dynamic_ncols=True,
        )
        self._total, self._unit, self._done, self._done_before = total, unit, done, done
        self._prints_lines = periodic_lines and not self._on_terminal
        self._started = self._last_line = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._bar.close()

    def advance(self, count: int = 1) -> None:
        """Adds `count` units of work done."""
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
        """Shows `note` behind the bar until the next report; off a terminal, prints `line`."""
        if self._on_terminal:
            self._bar.set_postfix_str(printable(note))
        else:
            tell(line)

    def say(self, line: str) -> None:
        """Prints a line on standard error."""
        with tqdm.external_write_mode(standard_error):
            tell(line)
