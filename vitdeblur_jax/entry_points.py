"""What train.py, evaluate.py and the command line share: flags, and errors in one line."""

import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from vitdeblur_jax.errors import CANNOT, INTERRUPTED, UserError
from vitdeblur_jax.output import show, tell

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


def exit_status(work: Callable[[], int | None]) -> int:
    """Runs `work`; a user's mistake becomes one line on standard error and status 2."""
    try:
        return work() or 0
    except UserError as error:
        tell(f"error: {error}")
        return CANNOT
    except KeyboardInterrupt:
        tell("interrupted")
        return INTERRUPTED


def run_with_config(work: Callable, required: Sequence[str] = ("config", "workdir")) -> None:
    """Runs `work(config, workdir)` with the absl flags --config and --workdir, then exits.

    Args:
      work: returns the exit status, or None for 0.
      required: the flags that may not be missing.
    """
    from absl import app, flags
    from ml_collections import config_flags

    from vitdeblur_jax.processes import end_with_others, join_others

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

    def joined_work():
        join_others(coordinator.value, count.value, index.value)
        return work(config.value, workdir.value)

    def main(_):
        return end_with_others(lambda: exit_status(joined_work))

    app.run(main, flags_parser=parse)


def _parse_flags(arguments: Sequence[str], config, workdir, required: Sequence[str]) -> None:
    from absl import flags

    try:
        rest = flags.FLAGS(arguments)
        if config.present:
            _check_is_config(config)
    except (Exception, SystemExit) as error:
        told = _told(error, f"{config.name}_config")
        if told is None:
            raise
        raise UserError(told) from error
    if len(rest) > 1:
        raise UserError(f"{rest[1]!r} is no flag; every setting is --config.KEY=VALUE")
    for flag in (config, workdir):
        if flag.name in required and not flag.value:
            raise UserError(_MISSING.format(flag.name))
    if flags.FLAGS["verbosity"].using_default_value:
        flags.FLAGS.verbosity = -1  # warnings; absl would show what JAX and Orbax merely mention


def _check_is_config(config) -> None:
    if not hasattr(config.value, "to_dict"):  # a file that cannot be read shows only here
        raise UserError(
            f"the config file's get_config() returns {type(config.value).__name__}; it must return "
            "an ml_collections.ConfigDict"
        )
    config.value.to_dict()


def _told(error: BaseException, module: str) -> str | None:
    """Returns what a user is told of an error in flags or config file; None if it is no mistake.

    Args:
      error: As it was caught.
      module: The name under which ml_collections runs the config file.
    """
    from absl import flags

    raised = _raised_by_config_file(error, module)
    if raised is not None:
        return raised
    if isinstance(error, flags.Error):
        flag = str(getattr(error, "flagname", ""))
        # The keys are flags only once the file is read.
        return _MISSING.format("config") if flag.startswith("config.") else _said(error)
    if not isinstance(error, _UNREADABLE):
        return None
    cause = _innermost(error)
    is_key = isinstance(cause, KeyError)
    what = "the config has no such key" if is_key else "the config file cannot be read"
    return f"{what}: {_said(cause)}"


def _raised_by_config_file(error: BaseException, module: str) -> str | None:
    """Returns file, line and message of what the config file raises; None if it raises nothing.

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
