"""What every command shares: its devices, and errors as one line and an exit status."""

import contextlib
import gc
import os
import sys
from collections.abc import Callable, Iterator

from vitdeblur_jax.utils import signals
from vitdeblur_jax.utils.buckets import is_of_storage
from vitdeblur_jax.utils.errors import CANNOT, CHECKED_AND_WRONG, INTERRUPTED, UserError, one_line
from vitdeblur_jax.utils.output import (
    drop_what_cannot_be_written,
    occupy_closed_streams,
    tell,
    tell_traceback,
)

_CHOOSE_DEVICES = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME")
_NUL = "embedded null byte"  # the message of Python's path functions
_ERRORS_OF_JAX = ("JaxRuntimeError", "XlaRuntimeError")


def run_process(work: Callable[[], int | None]) -> int:
    """Runs the main work of a process and returns its exit status; see `exit_status`.

    Call it before JAX is imported. A signal ends the process with one line. Closed standard streams
    are opened on the null device, and output that cannot be written is dropped.

    Args:
      work: Returns its exit status, or None for 0.
    """
    signals.listen()
    occupy_closed_streams()
    try:
        return exit_status(work)
    except Exception as error:
        tell_traceback(error)
        return CHECKED_AND_WRONG
    finally:
        drop_what_cannot_be_written()


def exit_status(work: Callable[[], int | None], smaller: str = "") -> int:
    """Runs `work` and returns its exit status.

    A user's mistake and a lack of memory become one line on standard error and status 2.

    Args:
      work: Returns its exit status, or None for 0.
      smaller: The options to lower when memory runs out, for the error message.
    """
    try:
        return work() or 0
    except KeyboardInterrupt:  # only outside `run_process`, which handles the signal itself
        tell("interrupted")
        return INTERRUPTED
    except Exception as error:
        message = error_message(error, smaller)
        if message is None:
            raise
        tell(f"error: {message}")
        return CANNOT


@contextlib.contextmanager
def first_imports() -> Iterator[None]:
    """Stops garbage collection while a process imports JAX and what needs it.

    Imports leave no garbage, and the collections take a fifth of their time. Later ones skip what
    was imported.
    """
    if "jax" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def import_jax() -> None:
    """Imports JAX.

    Raises:
      UserError: JAX rejects the value of one of its environment variables.
    """
    try:
        import jax  # noqa: F401
    except ValueError as error:
        raise UserError(f"JAX cannot be imported ({one_line(error)})") from error


def find_devices() -> None:
    """Initializes JAX's devices. Call it after the processes are joined and before other work.

    Adds the CPU to the platforms of `JAX_PLATFORMS`, for metrics in float64.

    Raises:
      UserError: JAX cannot be imported or does not find the devices.
    """
    import_jax()
    import jax

    try:
        platforms = jax.config.jax_platforms
        needs_no_cpu = bool(platforms) and "cpu" not in platforms.split(",")
        if needs_no_cpu:
            jax.config.update("jax_platforms", f"{platforms},cpu")
        found = jax.devices()[0].platform
    except (RuntimeError, ValueError, AssertionError) as error:
        # JAX's advice is cut off; `_no_devices` gives advice for these commands.
        reason = one_line(error).partition(" (set JAX_PLATFORMS=")[0]
        raise UserError(_no_devices(reason)) from error
    if needs_no_cpu and found == "cpu":  # JAX silently skips a platform without a plug-in
        raise UserError(_no_devices(f"no plug-in for {platforms} is installed"))


def _no_devices(reason: str) -> str:
    given = [f"{name}={os.environ[name]}" for name in _CHOOSE_DEVICES if os.environ.get(name)]
    if not given:
        return f"JAX cannot use a device ({reason})"
    return (
        f"JAX finds no device for {' and '.join(given)} ({reason}); unset it, or set "
        "JAX_PLATFORMS=cpu"
    )


def error_message(error: Exception, smaller: str = "") -> str | None:
    """Returns the message for a user's mistake or a lack of memory; None for a bug.

    Args:
      error: The error.
      smaller: The options to lower when memory runs out.
    """
    if isinstance(error, UserError):
        return str(error)
    if not isinstance(error, OSError) and is_of_storage(error):
        return f"a bucket cannot be used ({one_line(error)}); run the same command to resume"
    if str(error) == _NUL:
        return "a path cannot hold a NUL character"
    is_of_device = "RESOURCE_EXHAUSTED" in str(error) and type(error).__name__ in _ERRORS_OF_JAX
    if not (is_of_device or isinstance(error, MemoryError)):
        return None
    where = "the device" if is_of_device else "this machine"
    advice = f"; lower {smaller}" if smaller else ""
    return f"{where} has too little memory ({one_line(error)}){advice}"
