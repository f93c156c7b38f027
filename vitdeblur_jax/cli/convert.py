"""`vitdeblur convert`: checkpoints from one format to another."""

import argparse
from pathlib import Path

from vitdeblur_jax.cli.own_network import add_network, chosen_network
from vitdeblur_jax.cli.parser import Parser
from vitdeblur_jax.cli.process import find_devices
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.output import tell

_DESCRIPTION = """\
Converts a checkpoint. IN is a published checkpoint of any network that `vitdeblur networks` lists
(PyTorch's .pth, .pt, .tar and the like, Keras' .hdf5 and .h5, TensorLayer's .npz), a .safetensors
file, a checkpoint folder, or the address of a file: hf://OWNER/NAME[@REVISION][/FILE] or
https://...#sha256=.... The ending of OUT sets the format: .pth, .safetensors, or a folder if OUT
has no ending. OUT may also be hf://OWNER/NAME: then IN is pushed to the Hugging Face Hub, with its
config and a model card.
"""


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = Parser("vitdeblur convert", description=_DESCRIPTION)
    parser.add_argument("source", metavar="IN")
    parser.add_argument("destination", metavar="OUT")
    parser.add_argument("--half", action="store_true", help="write float16; .safetensors only")
    parser.add_argument("--force", action="store_true", help="replace OUT if it is a checkpoint")
    parser.add_argument(
        "--license",
        metavar="NAME",
        help="licence of the weights, such as apache-2.0; only for OUT on the hub, which needs it",
    )
    add_network(parser)
    parser.set_defaults(run=_run)
    return parser


def _run(options) -> None:
    from vitdeblur_jax.checkpoints.addresses import is_address
    from vitdeblur_jax.checkpoints.load_save import convert

    is_pushed = is_address(options.destination)
    if options.license is not None and not is_pushed:
        raise UserError("--license is for a checkpoint that is pushed to hf://OWNER/NAME")
    find_devices()
    how = {
        "overwrite": options.force,
        "half": options.half,
        "network": chosen_network(options.network),
    }
    written = options.destination
    if is_pushed:
        from vitdeblur_jax.checkpoints.hub_push import push

        written, unused = push(options.source, written, options.license, **how)
    else:
        unused = convert(options.source, written, **how)
    tell(f"written: {written}")
    if unused:
        fate = "kept" if Path(written).suffix else "left out of the folder"
        names = ", ".join(unused)
        tell(f"{fate}: {len(unused)} entries the network never uses: {names}")
