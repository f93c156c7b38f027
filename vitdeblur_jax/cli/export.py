"""`vitdeblur export`: models as StableHLO."""

import argparse

from vitdeblur_jax.cli.own_network import add_network, chosen_network
from vitdeblur_jax.cli.parser import Parser
from vitdeblur_jax.cli.process import find_devices
from vitdeblur_jax.utils.output import tell

_DESCRIPTION = """\
Writes a model as StableHLO, with a loader that restores whole images and needs only JAX and NumPy.
CHECKPOINT is any checkpoint that `vitdeblur convert` reads, or `demo`, the small model that comes
with the package. OUT is a new folder.
"""


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = Parser("vitdeblur export", description=_DESCRIPTION)
    parser.add_argument("source", metavar="CHECKPOINT")
    parser.add_argument("destination", metavar="OUT")
    parser.add_argument(
        "--platforms",
        default="cpu,cuda,tpu",
        help="target platforms, separated by commas (default: cpu,cuda,tpu)",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        help="fixes the number of windows or tiles per batch (default: any number)",
    )
    add_network(parser)
    parser.set_defaults(run=_run)
    return parser


def _run(options) -> None:
    from vitdeblur_jax.inference.export import export

    find_devices()
    export(
        options.source,
        options.destination,
        options.platforms.split(","),
        options.batch_size,
        chosen_network(options.network),
    )
    tell(f"written: {options.destination}")
