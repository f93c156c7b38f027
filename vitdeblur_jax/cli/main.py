"""The command `vitdeblur`: restores images, converts and exports models, checks and scores data."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from vitdeblur_jax.cli import convert, data, export, info, networks, restore, score, web
from vitdeblur_jax.cli.compilation_cache import use_compilation_cache
from vitdeblur_jax.cli.process import exit_status, run_process
from vitdeblur_jax.utils.errors import UserError

_COMMANDS = {
    "restore": restore.make_parser,
    "convert": convert.make_parser,
    "export": export.make_parser,
    "networks": networks.make_parser,
    "data": data.make_parser,
    "score": score.make_parser,
    "info": info.make_parser,
    "web": web.make_parser,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status: 0 success, 1 a check failed, 2 an error.

    Args:
      arguments: The command's arguments. None takes them from `sys.argv`; the command then owns
        this process and handles its signals and standard streams.
    """
    if arguments is None:
        return run_process(lambda: _run(sys.argv[1:], use_compilation_cache))
    return exit_status(lambda: _run(list(arguments)))


def _run(arguments: list[str], prepare: Callable[[], None] = lambda: None) -> int | None:
    options = parse(arguments)
    prepare()
    return options.run(options)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parses the command line.

    Args:
      arguments: A command and its arguments. Without a command, they are those of `restore`.

    Returns:
      The options, and `run`, the function that takes them.

    Raises:
      UserError: The command line is wrong.
    """
    command = arguments[0] if arguments else None
    if command not in _COMMANDS:
        return restore.make_parser().parse_args(arguments)
    try:
        return _COMMANDS[command]().parse_args(arguments[1:])
    except UserError as error:
        if not os.path.exists(command):
            raise
        raise UserError(
            f"{error}. {command!r} is a command; to restore the file or folder of that name, type "
            f"`vitdeblur restore {command}`"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
