"""`vitdeblur convert`: checkpoints from one format to another."""

import argparse
from pathlib import Path

from vitdeblur_jax.cli.own_network import add_network, chosen_network
from vitdeblur_jax.cli.parser import Parser
from vitdeblur_jax.cli.process import find_devices
from vitdeblur_jax.utils.output import tell

_DESCRIPTION = """\
Converts a checkpoint. IN is a published checkpoint of any network that `vitdeblur networks` lists
(PyTorch's .pth, .pt, .tar and the like, Keras' .hdf5 and .h5, TensorLayer's .npz), a .safetensors
file or a checkpoint folder. The ending of OUT sets the format: .pth, .safetensors, or a folder if
OUT has no ending.
"""


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = Parser("vitdeblur convert", description=_DESCRIPTION)
    parser.add_argument("source", metavar="IN")
    parser.add_argument("destination", metavar="OUT")
    parser.add_argument("--half", action="store_true", help="write float16; .safetensors only")
    parser.add_argument("--force", action="store_true", help="replace OUT if it is a checkpoint")
    add_network(parser)
    parser.set_defaults(run=_run)
    return parser


def _run(options) -> None:
    from vitdeblur_jax.checkpoints.load_save import convert

    find_devices()
    unused = convert(
        options.source,
        options.destination,
        overwrite=options.force,
        half=options.half,
        network=chosen_network(options.network),
    )
    tell(f"written: {options.destination}")
    if unused:
        fate = "kept" if Path(options.destination).suffix else "left out of the folder"
        names = ", ".join(unused)
        tell(f"{fate}: {len(unused)} entries the network never uses: {names}")
