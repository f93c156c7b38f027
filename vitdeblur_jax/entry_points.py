"""What train.py, evaluate.py and the command line share: flags, and errors in one line."""

import sys
from collections.abc import Callable, Sequence

from vitdeblur_jax.errors import UserError

CANNOT = 2
INTERRUPTED = 130


def exit_status(work: Callable[[], int | None]) -> int:
    """Runs `work`; a user's mistake becomes one line on standard error and status 2."""
    try:
        return work() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return CANNOT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def run_with_config(work: Callable) -> None:
    """Runs `work(config, workdir)` with the absl flags --config and --workdir, then exits."""
    from absl import app, flags
    from ml_collections import config_flags

    config = config_flags.DEFINE_config_file("config", help_string="Path of the config file.")
    workdir = flags.DEFINE_string("workdir", None, "Folder that takes the results.")

    def parse(arguments):
        status = exit_status(lambda: _parse_flags(arguments, config, workdir))
        if status:
            sys.exit(status)
        return arguments[:1]

    def main(_):
        return exit_status(lambda: work(config.value, workdir.value))

    app.run(main, flags_parser=parse)


def _parse_flags(arguments: Sequence[str], config, workdir) -> None:
    from absl import flags

    try:
        rest = flags.FLAGS(arguments)
    except flags.Error as error:
        raise UserError(_one_line(error)) from error
    except AttributeError as error:  # how ml_collections says that a key does not exist
        raise UserError(f"unknown config key {_one_line(error)}") from error
    except (OSError, ImportError, SyntaxError, ValueError) as error:
        raise UserError(f"the config file cannot be read: {_one_line(error)}") from error
    if len(rest) > 1:
        raise UserError(f"{rest[1]!r} is no flag; every setting is --config.KEY=VALUE")
    for flag in (config, workdir):
        if flag.value is None:
            raise UserError(f"--{flag.name} is missing; see --help")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).strip("\"'").replace("\\n", " ").split())
