"""What train.py, evaluate.py and the command line share: flags, and errors in one line."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from vitdeblur_jax.utils import signals
from vitdeblur_jax.utils.errors import (
    CANNOT,
    CHECKED_AND_WRONG,
    INTERRUPTED,
    UserError,
    nearest,
    one_line,
)
from vitdeblur_jax.utils.files import home_expanded
from vitdeblur_jax.utils.output import (
    drop_what_cannot_be_written,
    occupy_closed_streams,
    show,
    tell,
    tell_traceback,
)

_CHOOSE_DEVICES = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME")
_NUL = "embedded null byte"  # what Python's functions of paths say
_ERRORS_OF_JAX = ("JaxRuntimeError", "XlaRuntimeError")
_MISSING = "--{} is missing; see --help"
_UNREADABLE = (AttributeError, KeyError, OSError, ImportError, SyntaxError, ValueError)
_HELP = """\
usage: {program} --config=FILE[:ARGUMENT] --workdir=FOLDER [--config.KEY=VALUE ...]

{purpose}

  --config=FILE[:ARGUMENT]  the config file; its head tells its arguments, its body its keys
  --config.KEY=VALUE        another value for one of its keys
  --workdir=FOLDER          takes the results
  --coordinator=HOST:PORT --processes=COUNT --process=INDEX
                            one of several processes, where no cluster (Slurm, Open MPI, Kubernetes,
                            Cloud TPU) tells so; --processes=1: alone, whatever a cluster tells
  --helpfull                lists the flags of all libraries too
"""


def run_process(work: Callable[[], int | None]) -> int:
    """Runs the work that this process was started for; returns its exit status.

    To be called before JAX is imported. A signal ends the work with one line, closed standard
    streams are filled, and what they cannot write is dropped. `exit_status` says the rest.
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
    """Runs `work`; a user's mistake becomes one line on standard error and status 2.

    So does memory that does not suffice.

    Args:
      work: returns its exit status, or None for 0.
      smaller: the options that save memory, for the error message.
    """
    try:
        return work() or 0
    except KeyboardInterrupt:  # where this is not the process of a command
        tell("interrupted")
        return INTERRUPTED
    except Exception as error:
        mistake = _mistake(error, smaller)
        if mistake is None:
            raise
        tell(f"error: {mistake}")
        return CANNOT


def import_jax() -> None:
    """Imports JAX.

    Raises:
      UserError: an environment variable of JAX has a value that JAX does not take.
    """
    try:
        import jax  # noqa: F401
    except ValueError as error:
        raise UserError(f"JAX cannot be imported ({one_line(error)})") from error


def find_devices() -> None:
    """Initializes JAX's devices; to be called once the processes are joined, before other work.

    A CPU stands beside the devices that `JAX_PLATFORMS` names, for the metrics in float64.

    Raises:
      UserError: JAX finds no such devices, or cannot be imported.
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
        # JAX's own advice; what follows it here is meant for these commands.
        reason = one_line(error).partition(" (set JAX_PLATFORMS=")[0]
        raise UserError(_no_devices(reason)) from error
    if needs_no_cpu and found == "cpu":  # JAX passes over a platform without a plug-in
        raise UserError(_no_devices(f"no plug-in for {platforms} is installed"))


def _no_devices(reason: str) -> str:
    given = [f"{name}={os.environ[name]}" for name in _CHOOSE_DEVICES if os.environ.get(name)]
    if not given:
        return f"JAX cannot use a device ({reason})"
    return (
        f"JAX finds no device for {' and '.join(given)} ({reason}); unset it, or set "
        "JAX_PLATFORMS=cpu"
    )


def _mistake(error: Exception, smaller: str) -> str | None:
    """Returns what to tell of an error that is no bug, or None."""
    if isinstance(error, UserError):
        return str(error)
    if str(error) == _NUL:
        return "a path cannot hold a NUL character"
    is_of_device = "RESOURCE_EXHAUSTED" in str(error) and type(error).__name__ in _ERRORS_OF_JAX
    if not (is_of_device or isinstance(error, MemoryError)):
        return None
    where = "the device" if is_of_device else "this machine"
    advice = f"; lower {smaller}" if smaller else ""
    return f"{where} has too little memory ({one_line(error)}){advice}"


def run_with_config(
    work: Callable,
    required: Sequence[str] = ("config", "workdir"),
    smaller: str = "",
    find: Callable[[], None] = find_devices,
) -> None:
    """Runs `work(config, workdir)` with the absl flags --config and --workdir, then exits.

    Args:
      work: returns the exit status, or None for 0. It imports what needs JAX: signals are handled
        from this call on.
      required: the flags that may not be missing.
      smaller: as of `exit_status`.
      find: called before the work; other than the default where the work makes up devices.
    """
    sys.exit(run_process(lambda: _run_with_flags(work, required, smaller, find)))


def _run_with_flags(
    work: Callable, required: Sequence[str], smaller: str, find: Callable[[], None]
) -> None:
    from absl import app, flags
    from ml_collections import config_flags

    config = config_flags.DEFINE_config_file("config", help_string="Path of the config file.")
    workdir = flags.DEFINE_string("workdir", None, "Folder that takes the results.")
    coordinator = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0.")
    count = flags.DEFINE_integer("processes", None, "How many processes there are.")
    index = flags.DEFINE_integer("process", None, "Which of them this is, from 0.")

    def parse(arguments):
        if {"-h", "-help", "--help"} & set(arguments):
            purpose = (sys.modules["__main__"].__doc__ or "").strip()
            show(*_HELP.format(program=Path(arguments[0]).name, purpose=purpose).splitlines())
            sys.exit(0)
        status = exit_status(lambda: _parse_flags(arguments, config, workdir, required))
        if status:
            sys.exit(status)
        return arguments[:1]

    def main(_):
        import_jax()
        from vitdeblur_jax.distributed.processes import end_with_others, join_others

        def joined_work():
            join_others(coordinator.value, count.value, index.value)
            find()
            return work(config.value, workdir.value)

        return end_with_others(lambda: exit_status(joined_work, smaller))

    app.run(main, flags_parser=parse)


def _parse_flags(arguments: Sequence[str], config, workdir, required: Sequence[str]) -> None:
    from absl import flags

    try:
        rest = flags.FLAGS(arguments)
        if config.present:
            _check_is_config(config)
    except (Exception, SystemExit) as error:
        told = _told(error, config.name)
        if told is None:
            raise
        raise UserError(told) from error
    if len(rest) > 1:
        raise UserError(f"{rest[1]!r} is no flag; every setting is --config.KEY=VALUE")
    for flag in (config, workdir):
        if flag.name in required and not flag.value:
            raise UserError(_MISSING.format(flag.name))
    if config.value:
        _expand_home(config.value)
    if workdir.value:
        flags.FLAGS[workdir.name].value = home_expanded(workdir.value)
    if flags.FLAGS["verbosity"].using_default_value:
        flags.FLAGS.verbosity = -1  # warnings; absl would show what JAX and Orbax merely mention


def _unknown_key(arguments: Sequence[str], name: str) -> str | None:
    """Returns what to tell of the first flag that sets a key which the config lacks, or None.

    ml_collections names the last part of the key alone, and keeps no config that it cannot change.
    """
    from absl import flags

    words = [(word.lstrip("-") + "=").split("=")[:2] for word in arguments]
    try:
        config = flags.FLAGS[name].parser.parse(dict(words)[name])
        for flag, _ in words:
            path, group = "", config
            for key in flag.split(".")[1:] if flag.startswith(f"{name}.") else ():
                if key not in group:
                    near = nearest(f"{path}{key}", [f"{path}{other}" for other in group])
                    there = ", ".join(sorted(group))
                    return f"the config has no key {f'{path}{key}'!r}{near}; there are {there}"
                path, group = f"{path}{key}.", group[key]
    except Exception:  # no such config, or no group of keys: ml_collections says what is wrong
        return None
    return None


def _expand_home(config) -> None:
    """Puts the home folder in place of a leading `~/` in every text of a config."""
    for key, value in config.items():
        if hasattr(value, "to_dict"):
            _expand_home(value)
        elif isinstance(value, str) and home_expanded(value) != value:
            config[key] = home_expanded(value)


def _check_is_config(config) -> None:
    if not hasattr(config.value, "to_dict"):  # a file that cannot be read shows only here
        raise UserError(
            f"the config file's get_config() returns {type(config.value).__name__}; it must return "
            "an ml_collections.ConfigDict"
        )
    config.value.to_dict()


def _told(error: BaseException, name: str) -> str | None:
    """Returns what a user is told of an error in flags or config file; None if it is no mistake.

    Args:
      error: As it was caught.
      name: Of the flag that takes the config file.
    """
    from absl import flags
    from ml_collections import config_flags

    raised = _raised_by_config_file(error, f"{name}_config")
    if raised is not None:
        return raised
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):  # ml_collections keeps it until the config is used
        file = config_flags.get_config_filename(flags.FLAGS[name])
        return f"the config file {file} cannot be read: {_said(_innermost(error))}"
    if isinstance(error, flags.Error):
        flag = str(getattr(error, "flagname", ""))
        # The keys are flags only once the file is read.
        return _MISSING.format("config") if flag.startswith("config.") else _said(error)
    if not isinstance(error, _UNREADABLE):
        return None
    cause = _innermost(error)
    is_key = isinstance(cause, KeyError)
    if is_key and (unknown := _unknown_key(sys.argv, name)):
        return unknown
    what = "the config has no such key" if is_key else "the config file cannot be read"
    return f"{what}: {_said(cause)}"


def _raised_by_config_file(error: BaseException, module: str) -> str | None:
    """Returns file, line and message of what the config file raises; None if it raises nothing.

    `module` is the name under which ml_collections runs the file.

    ml_collections and absl replace some exceptions; the original one is then their context.
    """
    while error is not None:
        frames = [
            (frame.f_code.co_filename, line)
            for frame, line in traceback.walk_tb(error.__traceback__)
            if frame.f_globals.get("__name__") == module
        ]
        if frames:
            file, line = frames[-1]
            return f"{file}, line {line}: {type(error).__name__}: {_said(error)}"
        error = error.__cause__ or error.__context__
    return None


def _innermost(error: BaseException) -> BaseException:
    """Returns the error that ml_collections has put into another."""
    if error.args and isinstance(error.args[0], KeyError):
        return error.args[0]
    return error.__cause__ or error


def _said(error: BaseException) -> str:
    """Returns an error's message in one line: the last one where it brings a traceback along."""
    is_key = isinstance(error, KeyError) and error.args
    text = str(error.args[0]) if is_key else str(error)
    if "Traceback" in text or "Attempted" in text:
        text = text.strip().splitlines()[-1]
    return " ".join(text.split())
