"""The command `vitdeblur`: restore images, convert and export models, data sets, scores."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from vitdeblur_jax.cli.with_config import exit_status, find_devices, import_jax, run_process
from vitdeblur_jax.utils.errors import CANNOT, UserError
from vitdeblur_jax.utils.files import home_expanded
from vitdeblur_jax.utils.output import results_go_to_terminal, show, tell

_RESTORE = """\
Restores images that are out of focus. Size, EXIF (orientation applied and reset), ICC profile,
alpha, gray and 16 bits stay. `vitdeblur IMAGE` is short for `vitdeblur restore IMAGE`.
Other commands: `vitdeblur convert` (checkpoints), `vitdeblur export` (StableHLO), `vitdeblur data`
(data sets) and `vitdeblur score` (saved images); each has its own --help.
"""
_CONVERT = """\
Converts a checkpoint. IN is a PyTorch checkpoint of the released code (.pth, .pt, .tar), a
.safetensors file or a checkpoint folder. OUT's ending says what is written: .pth, .safetensors, or
a folder if it has none.
"""
_EXPORT = """\
Writes a model as StableHLO, with a loader that restores whole images and needs JAX and NumPy
alone. CHECKPOINT is what `vitdeblur convert` reads, or `demo`, the small model that comes with the
package; OUT is a folder that is not there yet.
"""

_DATA = "Looks after data sets of blurred and sharp images."
_CHECK = """\
Says which set and layout a folder holds and whether it is whole: counts against the published ones,
pairs, sizes, bit depths, damaged files, images of the training split in the test split. Ends
with 1 when something is wrong.
"""
_PREPARE = """\
Writes a data set as records that are fast to read in training. Interrupted, it goes on when started
again. --beam comes last: what stands behind it are options of Apache Beam's pipeline, such as
`--beam --direct_num_workers=4 --direct_running_mode=multi_processing` on this machine, or `--beam
--runner=DataflowRunner --project=...` on many, which all have to see ROOT and OUT as folders.
"""
_PREPARE_USAGE = """\
vitdeblur data prepare [-h] [--set SET] [--builder-config BUILDER_CONFIG]
                              [--skip-broken] ROOT OUT [--beam [BEAM_OPTION ...]]"""
_SYNTHESIZE = """\
Puts sharp images out of focus by the thin-lens model and writes the pairs in two folders.
Interrupted, it resumes when started again.
"""
_SCORE = """\
Scores folders of restored images, from any method, against the sharp images of a data set, and
prints the table. Which image belongs to which pair is told from the names that each system gives.
Ends with 2, and names what is missing, when a folder is incomplete or ambiguous.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status: 0 done, 1 found wrong, 2 cannot.

    Args:
      arguments: None: those of this process, which the command then is: it handles signals and
        closed streams.
    """
    if arguments is None:
        return run_process(lambda: _run(sys.argv[1:]))
    return exit_status(lambda: _run(list(arguments)))


def _run(arguments: list[str]) -> int | None:
    options = _parse(arguments)
    return options.run(options)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parsers = {
        "restore": _restore_parser,
        "convert": _convert_parser,
        "export": _export_parser,
        "data": _data_parser,
        "score": _score_parser,
    }
    command = arguments[0] if arguments else None
    if command not in parsers:
        return _restore_parser().parse_args(arguments)
    try:
        return parsers[command]().parse_args(arguments[1:])
    except UserError as error:
        if not os.path.exists(command):
            raise
        raise UserError(
            f"{error}. {command!r} is a command; to restore what is called so in this folder, "
            f"type `vitdeblur restore {command}`"
        ) from error


class _Parser(argparse.ArgumentParser):
    """Prints by this package's functions; a mistake is a `UserError`; `~/` is the home folder."""

    def parse_args(self, args=None, namespace=None):
        options = super().parse_args(args, namespace)
        for name, value in vars(options).items():
            setattr(options, name, _home_expanded(value))
        return options

    def print_help(self, file=None):
        show(*self.format_help().splitlines())

    def error(self, message):
        raise UserError(f"{message}; see {self.prog} --help")


def _home_expanded(value):
    match value:
        case str():
            return home_expanded(value)
        case Path():
            return Path(home_expanded(str(value)))
        case list():
            return [_home_expanded(item) for item in value]
    return value


def _restore_parser():
    parser = _Parser("vitdeblur", description=_RESTORE)
    parser.add_argument("image", nargs="+", help="a file, a folder, or - for standard input")
    parser.add_argument(
        "-o",
        "--output",
        help="a file, a folder for several, or - for standard output; by default NAME_restored "
        "beside each image",
    )
    parser.add_argument(
        "--checkpoint",
        help="a folder, .safetensors or .pth; by default the small model that comes with the "
        "package",
    )
    parser.add_argument(
        "--strength",
        type=float,
        default=1.0,
        help="from 0 to 1: how much of the restoration is taken, the rest is the image (1)",
    )
    parser.add_argument(
        "--self-ensemble",
        action="store_true",
        help="take the mean over the eight flips and turns: a little better, eight times the work",
    )
    parser.add_argument(
        "--change", metavar="MAP", help="write where it was changed, white: by 32 of 255 or more"
    )
    parser.add_argument(
        "--uncertainty",
        metavar="MAP",
        help="with --self-ensemble: write where the eight disagree, white: by 8 of 255 or more",
    )
    parser.add_argument(
        "--stride",
        type=int,
        help="step between windows, pixels (the model's, 94 for the published one)",
    )
    parser.add_argument(
        "--batch-size", type=int, help="windows at once (1 a CPU, 8 another device)"
    )
    parser.add_argument(
        "--recursive",
        action="store_true",
        help="take the images of the folders in a folder too, into folders of the same names",
    )
    parser.add_argument(
        "--quality",
        type=int,
        help="of results in JPEG and WebP, from 1 to 100 (as the image's own, else 95)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite results that exist")
    parser.add_argument(
        "--skip-existing",
        action="store_true",
        help="leave out images whose results exist: goes on after an interruption",
    )
    several = parser.add_argument_group(
        "one of several processes",
        "They share the images out. Slurm, Open MPI, Kubernetes and Cloud TPU tell each what "
        "it is; elsewhere these three do.",
    )
    several.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens")
    several.add_argument(
        "--processes", type=int, metavar="COUNT", help="how many; 1: alone, whatever a cluster says"
    )
    several.add_argument("--process", type=int, metavar="INDEX", help="which this is, from 0")
    parser.set_defaults(run=_run_restoration)
    return parser


def _convert_parser():
    parser = _Parser("vitdeblur convert", description=_CONVERT)
    parser.add_argument("source", metavar="IN")
    parser.add_argument("destination", metavar="OUT")
    parser.add_argument("--half", action="store_true", help="float16; for .safetensors alone")
    parser.add_argument("--force", action="store_true", help="replace OUT, if it is a checkpoint")
    parser.set_defaults(run=_convert)
    return parser


def _export_parser():
    parser = _Parser("vitdeblur export", description=_EXPORT)
    parser.add_argument("source", metavar="CHECKPOINT")
    parser.add_argument("destination", metavar="OUT")
    parser.add_argument(
        "--platforms",
        default="cpu,cuda,tpu",
        help="where it is to run, names between commas (cpu,cuda,tpu)",
    )
    parser.add_argument(
        "--batch-size", type=int, help="windows at once, for good; by default any number"
    )
    parser.set_defaults(run=_export)
    return parser


def _data_parser():
    parser = _Parser("vitdeblur data", description=_DATA)
    verbs = parser.add_subparsers(required=True, metavar="check|prepare|synthesize")

    check = verbs.add_parser("check", help="is a data set whole?", description=_CHECK)
    check.add_argument("root", metavar="ROOT", help="the folder of the data set")
    check.add_argument("--json", action="store_true", help="print JSON instead of a table")
    check.add_argument(
        "--names-only", action="store_true", help="names and counts, without decoding: a second"
    )
    check.set_defaults(run=_check_data)

    prepare = verbs.add_parser(
        "prepare",
        help="write records for training",
        description=_PREPARE,
        usage=_PREPARE_USAGE,
    )
    prepare.add_argument("root", metavar="ROOT", help="the folder of the data set")
    prepare.add_argument("out", metavar="OUT", help="takes the prepared data sets")
    prepare.add_argument("--set", help="dpdd, realdof, lfdof, ...; by default what is recognised")
    prepare.add_argument("--builder-config", help="of the set, such as dual_pixel_16bit")
    prepare.add_argument(
        "--skip-broken", action="store_true", help="name broken images and go on without them"
    )
    prepare.add_argument(
        "--beam",
        nargs=argparse.REMAINDER,
        help="share the work out by Apache Beam (DirectRunner); all that follows is for Beam, and "
        "--beam --help lists its options",
    )
    prepare.set_defaults(run=_prepare_data)

    synthesize = verbs.add_parser(
        "synthesize", help="make blurred images of sharp ones", description=_SYNTHESIZE
    )
    synthesize.add_argument("sharp", metavar="SHARP_FOLDER", help="sharp images")
    synthesize.add_argument("out", metavar="OUT", help="takes input/ and target/")
    synthesize.add_argument("--seed", type=int, default=0, help="another seed, other blur (0)")
    synthesize.add_argument("--force", action="store_true", help="overwrite pairs that exist")
    synthesize.set_defaults(run=_synthesize_data)
    return parser


def _score_parser():
    parser = _Parser("vitdeblur score", description=_SCORE)
    parser.add_argument(
        "methods",
        nargs="+",
        metavar="NAME=FOLDER",
        help="a name for the table and the folder of its images; NAME:PROFILE=FOLDER says which "
        "system saved them, such as NAME:restormer=FOLDER",
    )
    parser.add_argument("--data", required=True, metavar="ROOT", help="the folder of the data set")
    parser.add_argument(
        "--set", required=True, help="dpdd, dpdd_dual_pixel, realdof, lfdof or pairs"
    )
    parser.add_argument("--split", default="test", help="train, val or test (test)")
    parser.add_argument(
        "--metrics",
        default="psnr,ssim,mae",
        help="names between commas, or all (psnr,ssim,mae)",
    )
    parser.add_argument(
        "--metric-weights", type=Path, metavar="FOLDER", help="the weights of metrics"
    )
    parser.add_argument(
        "--published", action="store_true", help="put the published figures beside the measured"
    )
    parser.add_argument(
        "--partial", action="store_true", help="score incomplete folders, too; marked by *"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="takes metrics.json, the tables as CSV, Markdown and LaTeX, and report.html",
    )
    parser.set_defaults(run=_score)
    return parser


def _run_restoration(options) -> int:
    import_jax()
    from vitdeblur_jax.distributed.processes import end_with_others

    return end_with_others(lambda: exit_status(lambda: _restore(options), "--batch-size"))


def _restore(options) -> int:
    from vitdeblur_jax.distributed.processes import join_others
    from vitdeblur_jax.inference.restore_files import Options, restore_files
    from vitdeblur_jax.utils import signals

    if options.uncertainty is not None and not options.self_ensemble:
        raise UserError("--uncertainty is what --self-ensemble finds: add --self-ensemble")
    how = Options(
        strength=options.strength,
        ensemble=options.self_ensemble,
        change=options.change,
        uncertainty=options.uncertainty,
        stride=options.stride,
        batch_size=options.batch_size,
        overwrite=options.force,
        skip_existing=options.skip_existing,
        recursive=options.recursive,
        quality=options.quality,
    )
    join_others(options.coordinator, options.processes, options.process)
    signals.listen_again()
    find_devices()
    failed = restore_files(options.image, options.output, options.checkpoint, how)
    return CANNOT if failed else 0


def _convert(options) -> None:
    from vitdeblur_jax.checkpoints.load_save import convert

    find_devices()
    unused = convert(
        options.source, options.destination, overwrite=options.force, half=options.half
    )
    tell(f"written: {options.destination}")
    if unused:
        fate = "kept" if Path(options.destination).suffix else "left out of the folder"
        names = ", ".join(unused)
        tell(f"{fate}: {len(unused)} entries the network never uses: {names}")


def _export(options) -> None:
    from vitdeblur_jax.inference.export import export

    find_devices()
    export(
        options.source,
        options.destination,
        options.platforms.split(","),
        options.batch_size,
    )
    tell(f"written: {options.destination}")


def _check_data(options) -> int:
    from vitdeblur_jax.data.integrity import run_check

    return run_check(options.root, options.json, decode=not options.names_only)


def _prepare_data(options) -> None:
    from vitdeblur_jax.data.records.preparation import prepare, training_flags

    folder = prepare(
        options.root,
        options.set,
        options.out,
        config=options.builder_config,
        skip_broken=options.skip_broken,
        beam_options=options.beam,
    )
    tell(f"written: {folder}")
    if flags := training_flags(folder):
        tell(f"train with: {flags}")


def _synthesize_data(options) -> None:
    from vitdeblur_jax.data.defocus.settings import SynthesisSettings
    from vitdeblur_jax.data.defocus.synthesis_files import synthesize_folder

    count = synthesize_folder(
        options.sharp, options.out, SynthesisSettings(), options.seed, overwrite=options.force
    )
    tell(f"written: {count} pairs in {options.out}")


def _score(options) -> None:
    from vitdeblur_jax.evaluation.scores import write_scores
    from vitdeblur_jax.evaluation.scoring import parse_method, parse_metrics, score
    from vitdeblur_jax.evaluation.tables import terminal

    find_devices()
    scores = score(
        options.data,
        options.set,
        [parse_method(text) for text in options.methods],
        parse_metrics(options.metrics),
        split=options.split,
        weights_folder=options.metric_weights,
        partial=options.partial,
        published=options.published,
        out=options.out,
    )
    if options.out:
        tell(f"written: {write_scores(options.out, scores)}")
    show(*terminal(scores, results_go_to_terminal()).splitlines(), styled=True)


if __name__ == "__main__":
    sys.exit(main())
