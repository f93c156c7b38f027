"""The argument parser of all commands."""

import argparse
from pathlib import Path

from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.files import home_expanded
from vitdeblur_jax.utils.output import show


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `UserError`, expands `~/`, and prints with `show`."""

    def parse_args(self, args=None, namespace=None):
        options = super().parse_args(args, namespace)
        for name, value in vars(options).items():
            setattr(options, name, _home_expanded(value))
        return options

    def print_help(self, file=None):
        show(*self.format_help().splitlines())

    def error(self, message):
        raise UserError(f"{message}; see {self.prog} --help")


class ShowVersion(argparse.Action):
    """Prints the version of the package and ends the program."""

    def __init__(self, option_strings, dest, **options):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, **options)

    def __call__(self, parser, namespace, values, option_string=None):
        from vitdeblur_jax.utils.versions import own_version  # late: most commands do not need it

        show(f"vitdeblur_jax {own_version()}")
        parser.exit()


def _home_expanded(value):
    match value:
        case str():
            return home_expanded(value)
        case Path():
            return Path(home_expanded(str(value)))
        case list():
            return [_home_expanded(item) for item in value]
    return value
