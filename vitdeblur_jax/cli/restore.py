"""`vitdeblur restore`, or `vitdeblur` alone: restores image files."""

import argparse

from vitdeblur_jax.cli.own_network import add_network, chosen_network
from vitdeblur_jax.cli.parser import Parser, ShowVersion
from vitdeblur_jax.cli.process import exit_status, find_devices, first_imports, import_jax
from vitdeblur_jax.utils.errors import CANNOT, UserError

_DESCRIPTION = """\
Restores images that are out of focus. A result keeps the size, EXIF (with the orientation applied
and reset), ICC profile, alpha, gray and 16 bits of its image. `vitdeblur IMAGE` is short for
`vitdeblur restore IMAGE`. Other commands: `vitdeblur networks` (a list), `vitdeblur convert`
(checkpoints), `vitdeblur export` (StableHLO), `vitdeblur data` (data sets), `vitdeblur score`
(saved images), `vitdeblur info` (this installation, for bug reports) and `vitdeblur web` (a page in
the browser); each has --help.
"""


# As in `NUMERICS_RULES` of `vitdeblur_jax.models.networks`, which imports JAX.
DTYPES = ("float32", "bfloat16")
PRECISIONS = ("highest", "high", "default")


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = Parser("vitdeblur", description=_DESCRIPTION)
    parser.add_argument("image", nargs="+", help="a file, a folder, or - for standard input")
    parser.add_argument("--version", action=ShowVersion, help="show the version and exit")
    _add_restoration(parser)
    _add_files(parser.add_argument_group("files"))
    _add_maps(parser.add_argument_group("maps"))
    _add_processes(
        parser.add_argument_group(
            "several processes",
            "The images are split over the processes. Slurm, Open MPI, Kubernetes and Cloud TPU "
            "set these three automatically.",
        )
    )
    parser.set_defaults(run=_run)
    return parser


def _add_restoration(parser) -> None:
    parser.add_argument(
        "--checkpoint",
        help="a folder, .safetensors, a published file (.pth, .hdf5, .npz), or an address: "
        "hf://OWNER/NAME[@REVISION][/FILE], https://...#sha256=..., gs://BUCKET/NAME or "
        "s3://BUCKET/NAME (default: the small model that comes with the package)",
    )
    add_network(parser)
    parser.add_argument(
        "--strength",
        type=float,
        default=1.0,
        help="blends the restored image with the input, from 0 (input) to 1 (default: 1)",
    )
    parser.add_argument(
        "--self-ensemble",
        action="store_true",
        help="average over the eight flips and rotations: slightly better, eight times the cost",
    )
    parser.add_argument(
        "--stride",
        type=int,
        help="step between windows, pixels (default: the model's; 94 for the published one)",
    )
    parser.add_argument(
        "--tile",
        type=int,
        help="side of a tile without its halo, pixels: smaller needs less memory (default: the "
        "network's; not for ViTDeblur, whose windows have a fixed size)",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        help="windows or tiles per batch (default: 1 on a CPU and for networks that take the whole "
        "image, else 8)",
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="dtype of the computation (default: the checkpoint's, in general float32)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="precision of float32 products on GPUs and TPUs; 'default' is TF32 on GPUs (without "
        "this option: the checkpoint's, in general highest)",
    )


def _add_files(parser) -> None:
    parser.add_argument(
        "-o",
        "--output",
        help="a file, a folder for several images, or - for standard output (default: "
        "NAME_restored beside each image)",
    )
    parser.add_argument(
        "--recursive",
        action="store_true",
        help="also restore the images in subfolders, into subfolders of the same names",
    )
    parser.add_argument(
        "--quality",
        type=int,
        help="quality of JPEG, WebP, HEIC and AVIF results, from 1 to 100 (default: that of a JPEG "
        "image, or 95)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite existing results")
    parser.add_argument(
        "--skip-existing",
        action="store_true",
        help="keep files that exist, and skip images that are done; resumes an interrupted command",
    )


def _add_maps(parser) -> None:
    parser.add_argument(
        "--change",
        metavar="MAP",
        help="write a map of the change; white is a change of 32 of 255 or more",
    )
    parser.add_argument(
        "--uncertainty",
        metavar="MAP",
        help="with --self-ensemble: write a map of the spread of the eight results; white is 8 of "
        "255 or more",
    )


def _add_processes(parser) -> None:
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    parser.add_argument(
        "--processes",
        type=int,
        metavar="COUNT",
        help="number of processes; 1 ignores a cluster's settings",
    )
    parser.add_argument("--process", type=int, metavar="INDEX", help="index of this one, from 0")


def _run(options) -> int:
    with first_imports():
        import_jax()
        from vitdeblur_jax.distributed.processes import end_with_others
        from vitdeblur_jax.inference import restore_files  # noqa: F401 (`_restore` uses it)

    smaller = "--batch-size or --tile"
    return end_with_others(lambda: exit_status(lambda: _restore(options), smaller))


def _restore(options) -> int:
    from vitdeblur_jax.distributed.processes import join_others
    from vitdeblur_jax.inference.restore_files import restore_files
    from vitdeblur_jax.inference.restore_plan import Options
    from vitdeblur_jax.utils import signals

    if options.uncertainty is not None and not options.self_ensemble:
        raise UserError("--uncertainty needs --self-ensemble: add --self-ensemble")
    how = Options(
        strength=options.strength,
        ensemble=options.self_ensemble,
        change=options.change,
        uncertainty=options.uncertainty,
        stride=options.stride,
        tile=options.tile,
        batch_size=options.batch_size,
        overwrite=options.force,
        skip_existing=options.skip_existing,
        recursive=options.recursive,
        dtype=options.dtype,
        precision=options.precision,
        quality=options.quality,
    )
    join_others(options.coordinator, options.processes, options.process)
    signals.listen_again()
    find_devices()
    network = chosen_network(options.network)
    failed = restore_files(options.image, options.output, options.checkpoint, how, network)
    return CANNOT if failed else 0
