"""The command `vitdeblur`: restore photographs, convert checkpoints."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vitdeblur_jax.entry_points import CANNOT, exit_status

_RESTORE = """\
Restores photographs that are out of focus. Size, EXIF (orientation applied and reset), ICC profile,
alpha, gray and 16 bits stay. `vitdeblur convert --help` tells about converting checkpoints.
"""
_CONVERT = """\
Converts a checkpoint. IN is a PyTorch checkpoint of the released code (.pth, .pt, .tar), a
.safetensors file or a checkpoint folder. OUT's ending says what is written: .pth, .safetensors, or
a folder if it has none.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status: 0 done, 2 cannot."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["convert"]:
        return exit_status(lambda: _convert(_convert_parser().parse_args(arguments[1:])))
    return exit_status(lambda: _restore(_restore_parser().parse_args(arguments)))


def _restore_parser():
    parser = argparse.ArgumentParser("vitdeblur", description=_RESTORE)
    parser.add_argument("photograph", nargs="+", help="a file, a folder, or - for standard input")
    parser.add_argument(
        "-o",
        "--output",
        help="a file, a folder for several, or - for standard output; by default NAME_restored "
        "beside each photograph",
    )
    parser.add_argument("--checkpoint", required=True, help="a folder, .safetensors or .pth")
    parser.add_argument(
        "--stride",
        type=int,
        help="step between windows, pixels (the model's, 94 for the published one)",
    )
    parser.add_argument(
        "--batch-size", type=int, help="windows at once (1 a CPU, 8 another device)"
    )
    parser.add_argument("--force", action="store_true", help="overwrite results that exist")
    return parser


def _convert_parser():
    parser = argparse.ArgumentParser("vitdeblur convert", description=_CONVERT)
    parser.add_argument("source", metavar="IN")
    parser.add_argument("destination", metavar="OUT")
    parser.add_argument("--force", action="store_true", help="overwrite OUT if it exists")
    return parser


def _restore(options) -> int:
    from vitdeblur_jax.restore_files import restore_files

    failed = restore_files(
        options.photograph,
        options.output,
        options.checkpoint,
        stride=options.stride,
        batch_size=options.batch_size,
        overwrite=options.force,
    )
    return CANNOT if failed else 0


def _convert(options) -> None:
    from vitdeblur_jax.checkpoints import convert

    unused = convert(options.source, Path(options.destination), overwrite=options.force)
    print(f"written: {options.destination}", file=sys.stderr)
    if unused:
        fate = "kept" if Path(options.destination).suffix else "left out of the folder"
        names = ", ".join(unused)
        print(f"{fate}: {len(unused)} entries the network never uses: {names}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
