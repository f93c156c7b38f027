"""`vitdeblur data`: checks data sets, prepares records for training, synthesizes defocus blur."""

import argparse

from vitdeblur_jax.cli.parser import Parser
from vitdeblur_jax.utils.output import tell

_DESCRIPTION = "Checks, prepares and synthesizes data sets of blurred and sharp images."
_CHECK = """\
Reports which set and layout a folder holds, and checks it: counts against the published ones,
pairs, sizes, bit depths, damaged files, and images that occur in more than one split. The exit
status is 1 if a check fails.
"""
_PREPARE = """\
Writes a data set as records that training reads fast. An interrupted run resumes when it is
started again. --beam comes last, because all options after it are passed to Apache Beam:
`--beam --direct_num_workers=4 --direct_running_mode=multi_processing` uses four processes of this
machine; `--beam --runner=DataflowRunner --project=...` uses many machines, which must all see ROOT
and OUT as folders.
"""
_PREPARE_USAGE = """\
vitdeblur data prepare [-h] [--set SET] [--builder-config BUILDER_CONFIG]
                              [--skip-broken] ROOT OUT [--beam [BEAM_OPTION ...]]"""
_SYNTHESIZE = """\
Blurs sharp images with the thin-lens model and writes the pairs to two folders. An interrupted run
resumes when it is started again.
"""
_ROOT = {"metavar": "ROOT", "help": "the folder of the data set"}


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = Parser("vitdeblur data", description=_DESCRIPTION)
    verbs = parser.add_subparsers(required=True, metavar="check|prepare|synthesize")
    _add_check(verbs)
    _add_prepare(verbs)
    _add_synthesize(verbs)
    return parser


def _add_check(verbs) -> None:
    parser = verbs.add_parser("check", help="check a data set", description=_CHECK)
    parser.add_argument("root", **_ROOT)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--names-only",
        action="store_true",
        help="check only names and counts, without decoding: takes a second",
    )
    parser.set_defaults(run=_check)


def _add_prepare(verbs) -> None:
    parser = verbs.add_parser(
        "prepare", help="write records for training", description=_PREPARE, usage=_PREPARE_USAGE
    )
    parser.add_argument("root", **_ROOT)
    parser.add_argument("out", metavar="OUT", help="the folder for the prepared data sets")
    parser.add_argument("--set", help="dpdd, realdof, lfdof, ... (default: the recognized set)")
    parser.add_argument(
        "--builder-config", help="configuration of the set, such as dual_pixel_16bit"
    )
    parser.add_argument(
        "--skip-broken", action="store_true", help="report broken images and leave them out"
    )
    parser.add_argument(
        "--beam",
        nargs=argparse.REMAINDER,
        help="run on Apache Beam (default runner: DirectRunner); all following options are passed "
        "to Beam, and --beam --help lists them",
    )
    parser.set_defaults(run=_prepare)


def _add_synthesize(verbs) -> None:
    parser = verbs.add_parser("synthesize", help="blur sharp images", description=_SYNTHESIZE)
    parser.add_argument("sharp", metavar="SHARP_FOLDER", help="the folder of the sharp images")
    parser.add_argument("out", metavar="OUT", help="the folder for input/ and target/")
    parser.add_argument("--seed", type=int, default=0, help="seed of the blur (default: 0)")
    parser.add_argument("--force", action="store_true", help="overwrite existing pairs")
    parser.set_defaults(run=_synthesize)


def _check(options) -> int:
    from vitdeblur_jax.data.integrity import run_check

    return run_check(options.root, options.json, decode=not options.names_only)


def _prepare(options) -> None:
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


def _synthesize(options) -> None:
    from vitdeblur_jax.data.defocus.settings import SynthesisSettings
    from vitdeblur_jax.data.defocus.synthesis_files import synthesize_folder

    count = synthesize_folder(
        options.sharp, options.out, SynthesisSettings(), options.seed, overwrite=options.force
    )
    tell(f"written: {count} pairs in {options.out}")
