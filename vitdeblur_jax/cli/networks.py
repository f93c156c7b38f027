"""`vitdeblur networks`: the networks that come with the package."""

import argparse

from vitdeblur_jax.cli.parser import Parser
from vitdeblur_jax.cli.process import import_jax
from vitdeblur_jax.utils.output import show

_DESCRIPTION = """\
Lists the configurations of all networks: parameters, views, and how large images are restored.
Exact tiles give the output for the whole image in bounded memory; the halo is in pixels. A network
restored as a whole image needs memory in proportion to the image. Takes about ten seconds.
"""


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = Parser("vitdeblur networks", description=_DESCRIPTION)
    parser.set_defaults(run=_run)
    return parser


def _run(options) -> None:
    import_jax()
    from vitdeblur_jax.models.listing import table_of_configurations
    from vitdeblur_jax.models.networks import configuration_names

    show(*table_of_configurations(configuration_names()).splitlines())
