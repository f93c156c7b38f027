"""The errors of Orbax and TensorStore: the reason as one line, and their logs suppressed."""

import contextlib
import logging
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from vitdeblur_jax.utils import signals
from vitdeblur_jax.utils.errors import one_line


@contextlib.contextmanager
def quiet_orbax() -> Iterator[None]:
    """Suppresses what Orbax logs; for every failure that it logs, it also raises an error.

    Only records and exceptions from Orbax's code are suppressed. Loggers and hooks are restored at
    the end. The exception is an error in a command's process: Orbax's threads still log while the
    command prints the error and exits, so they stay suppressed.
    """
    # asyncio logs Orbax's exceptions that were never retrieved when they are garbage-collected.
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    hook, excepthook = sys.unraisablehook, sys.excepthook  # TensorStore's threads call both

    def is_of_others(record):
        return not _is_of_orbax(record.pathname)

    def tell_of_others(unraisable):
        if not _raised_by_orbax(unraisable.exc_traceback):
            hook(unraisable)

    def tell_of_other_errors(kind, error, trace):
        if not _raised_by_orbax(trace):
            excepthook(kind, error, trace)

    def undo():
        for logger in loggers:
            logger.removeFilter(is_of_others)
        sys.unraisablehook, sys.excepthook = hook, excepthook

    for logger in loggers:
        logger.addFilter(is_of_others)
    sys.unraisablehook, sys.excepthook = tell_of_others, tell_of_other_errors
    try:
        yield
    except BaseException:
        if not signals.is_listening():
            undo()
        raise
    undo()


def _raised_by_orbax(trace):
    return any(_is_of_orbax(frame.f_code.co_filename) for frame, _ in traceback.walk_tb(trace))


def _is_of_orbax(file):
    # TensorStore's threads raise in asyncio when Orbax has closed their event loops.
    return not {"orbax", "asyncio"}.isdisjoint(Path(file).parts)


def orbax_reason(error: Exception) -> str:
    """Returns the reason in an error of Orbax, as one short line.

    TensorStore's messages begin with the operation and the file, and end with source locations; the
    reason is in between.
    """
    said = re.sub(r"( \[\w+=|\. See full TensorStore).*", "", " ".join(str(error).split()))
    reason = said.rpartition('": ')[2][:200]
    if isinstance(error, TypeError | AttributeError | LookupError):  # damaged metadata
        return "unexpected contents"
    is_plain = isinstance(error, OSError | UnicodeError)
    return reason if reason and not is_plain else one_line(error)
