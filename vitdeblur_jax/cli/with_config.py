"""The absl flags of train.py and evaluate.py, and errors in flags and config files as one line."""

import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from vitdeblur_jax.cli.own_network import import_from_current_folder
from vitdeblur_jax.cli.process import exit_status, find_devices, import_jax, run_process
from vitdeblur_jax.utils.errors import UserError, nearest
from vitdeblur_jax.utils.files import home_expanded
from vitdeblur_jax.utils.output import show

_MISSING = "--{} is missing; see --help"
_UNREADABLE = (AttributeError, KeyError, OSError, ImportError, SyntaxError, ValueError)
_HELP = """\
usage: {program} --config=FILE[:ARGUMENT] --workdir=FOLDER [--config.KEY=VALUE ...]

{purpose}

  --config=FILE[:ARGUMENT]  the config file, described by its docstring; docs/configs.md
                            says where each key is explained
  --config.KEY=VALUE        overrides the value of a key
  --workdir=FOLDER          the folder for the results; gs://BUCKET/NAME or s3://BUCKET/NAME
                            with the extra gcs or s3
  --coordinator=HOST:PORT --processes=COUNT --process=INDEX
                            several processes; Slurm, Open MPI, Kubernetes and Cloud TPU set these
                            automatically; --processes=1 ignores a cluster's settings
  --helpfull                also lists the flags of all libraries
"""


def run_with_config(
    work: Callable,
    required: Sequence[str] = ("config", "workdir"),
    smaller: str = "",
    find: Callable[[], None] = find_devices,
) -> None:
    """Runs `work(config, workdir)` with the absl flags --config and --workdir, then exits.

    Args:
      work: Returns the exit status, or None for 0. It imports JAX itself, so that signals are
        handled before JAX is imported.
      required: The flags that must be set.
      smaller: The options to lower when memory runs out; see `exit_status`.
      find: Called before the work to initialize JAX's devices.
    """
    sys.exit(run_process(lambda: _run_with_flags(work, required, smaller, find)))


def _run_with_flags(
    work: Callable, required: Sequence[str], smaller: str, find: Callable[[], None]
) -> None:
    from absl import app, flags
    from ml_collections import config_flags

    import_from_current_folder()  # also for a config file
    config = config_flags.DEFINE_config_file("config", help_string="Path of the config file.")
    workdir = flags.DEFINE_string("workdir", None, "Folder for the results.")
    coordinator = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0.")
    count = flags.DEFINE_integer("processes", None, "Number of processes.")
    index = flags.DEFINE_integer("process", None, "Index of this process, from 0.")

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
        message = _mistake_in_flags(error, config.name)
        if message is None:
            raise
        raise UserError(message) from error
    if len(rest) > 1:
        raise UserError(f"{rest[1]!r} is not a flag; settings are --config.KEY=VALUE")
    for flag in (config, workdir):
        if flag.name in required and not flag.value:
            raise UserError(_MISSING.format(flag.name))
    if config.value:
        _expand_home(config.value)
    if workdir.value:
        flags.FLAGS[workdir.name].value = home_expanded(workdir.value)
    if flags.FLAGS["verbosity"].using_default_value:
        flags.FLAGS.verbosity = -1  # warnings, without the INFO lines of JAX and Orbax


def _unknown_key(arguments: Sequence[str], name: str) -> str | None:
    """Returns the message for the first flag that sets a missing key of the config, or None.

    ml_collections names only the last part of the key and drops the config, so this parses it
    again.
    """
    from absl import flags

    words = [(word.lstrip("-") + "=").split("=")[:2] for word in arguments]
    try:
        config = flags.FLAGS[name].parser.parse(dict(words)[name])
        for flag, _ in words:
            path, group = "", config
            for key in flag.split(".")[1:] if flag.startswith(f"{name}.") else ():
                if key not in group:
                    near = nearest(key, group, prefix=path)
                    there = ", ".join(sorted(group))
                    return f"the config has no key {f'{path}{key}'!r}{near}; the keys are {there}"
                path, group = f"{path}{key}.", group[key]
    except Exception:  # no config, or no group of keys: the caller reports the original error
        return None
    return None


def _expand_home(config) -> None:
    """Expands a leading `~/` in every string of a config."""
    for key, value in config.items():
        if hasattr(value, "to_dict"):
            _expand_home(value)
        elif isinstance(value, str) and home_expanded(value) != value:
            config[key] = home_expanded(value)


def _check_is_config(config) -> None:
    if not hasattr(config.value, "to_dict"):  # reading `value` raises if the file cannot be read
        raise UserError(
            f"the config file's get_config() returns {type(config.value).__name__}; it must return "
            "an ml_collections.ConfigDict"
        )
    config.value.to_dict()


def _mistake_in_flags(error: BaseException, name: str) -> str | None:
    """Returns the message for an error in the flags or the config file; None for any other error.

    Args:
      error: The error.
      name: The name of the flag for the config file.
    """
    from absl import flags
    from ml_collections import config_flags

    raised = _raised_by_config_file(error, f"{name}_config")
    if raised is not None:
        return raised
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):  # ml_collections raises it only when the config is used
        file = config_flags.get_config_filename(flags.FLAGS[name])
        return f"the config file {file} cannot be read: {_last_line(_innermost(error))}"
    if isinstance(error, flags.Error):
        flag = str(getattr(error, "flagname", ""))
        # Keys become flags only when the config file is read.
        return _MISSING.format("config") if flag.startswith("config.") else _last_line(error)
    if not isinstance(error, _UNREADABLE):
        return None
    cause = _innermost(error)
    is_key = isinstance(cause, KeyError)
    if is_key and (unknown := _unknown_key(sys.argv, name)):
        return unknown
    if isinstance(cause, AttributeError) and "attribute 'get_config'" in str(cause):
        named = [word.partition("=")[2] for word in sys.argv if word.startswith(f"--{name}=")]
        file = f"{named[-1].partition(':')[0]} " if named else ""
        return f"the config file {file}has no function get_config()"
    what = "the config does not have this key" if is_key else "the config file cannot be read"
    return f"{what}: {_last_line(cause)}"


def _raised_by_config_file(error: BaseException, module: str) -> str | None:
    """Returns the file, line and message of an exception raised by the config file, or None.

    ml_collections and absl replace some exceptions; the original exception is then their context.

    Args:
      error: The error.
      module: The name of the module as which ml_collections runs the file.
    """
    while error is not None:
        frames = [
            (frame.f_code.co_filename, line)
            for frame, line in traceback.walk_tb(error.__traceback__)
            if frame.f_globals.get("__name__") == module
        ]
        if frames:
            file, line = frames[-1]
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            return f"{file}, line {line}: {kind}{_last_line(error)}"
        error = error.__cause__ or error.__context__
    return None


def _innermost(error: BaseException) -> BaseException:
    """Returns the error that ml_collections wraps in another one."""
    if error.args and isinstance(error.args[0], KeyError):
        return error.args[0]
    return error.__cause__ or error


def _last_line(error: BaseException) -> str:
    """Returns an error's message as one line: its last line if it contains a traceback."""
    is_key = isinstance(error, KeyError) and error.args
    text = str(error.args[0]) if is_key else str(error)
    if "Traceback" in text or "Attempted" in text:
        text = text.strip().splitlines()[-1]
    return " ".join(text.split())
