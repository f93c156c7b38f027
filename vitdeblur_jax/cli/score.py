"""`vitdeblur score`: scores saved images of any method against the sharp images."""

import argparse
from pathlib import Path

from vitdeblur_jax.cli.parser import Parser
from vitdeblur_jax.cli.process import find_devices
from vitdeblur_jax.utils.buckets import check_on_disk
from vitdeblur_jax.utils.output import results_go_to_terminal, show, tell

_DESCRIPTION = """\
Scores folders of restored images, from any method, against the sharp images of a data set, and
prints the table. Images are matched to pairs by the file names that each system writes. If a folder
is incomplete or ambiguous, the exit status is 2 and the missing images are listed.
"""


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = Parser("vitdeblur score", description=_DESCRIPTION)
    parser.add_argument(
        "methods",
        nargs="+",
        metavar="NAME=FOLDER",
        help="a name for the table, and the folder of its images; NAME:PROFILE=FOLDER names the "
        "system that saved them, such as NAME:restormer=FOLDER",
    )
    parser.add_argument("--data", required=True, metavar="ROOT", help="the folder of the data set")
    parser.add_argument(
        "--set", required=True, help="dpdd, dpdd_dual_pixel, realdof, lfdof or pairs"
    )
    parser.add_argument("--split", default="test", help="train, val or test (default: test)")
    parser.add_argument(
        "--metrics",
        help="names separated by commas, or all (default: those of the profile, or psnr,ssim,mae)",
    )
    parser.add_argument(
        "--profile",
        default="",
        help="measure as the published code of a system does: dpdnet, aifnet, mdp, kpac, ifanet, "
        "gkmnet, drbnet, restormer, nrknet or vitdeblur",
    )
    parser.add_argument(
        "--metric-weights", type=Path, metavar="FOLDER", help="the folder of the metrics' weights"
    )
    parser.add_argument("--published", action="store_true", help="also show the published scores")
    parser.add_argument(
        "--partial", action="store_true", help="also score incomplete folders; marked by *"
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="the folder for metrics.json, the tables as CSV, Markdown and LaTeX, and report.html",
    )
    parser.set_defaults(run=_run)
    return parser


def _run(options) -> None:
    from vitdeblur_jax.evaluation.metrics_json import write_scores
    from vitdeblur_jax.evaluation.profiles import find_protocol
    from vitdeblur_jax.evaluation.score import parse_method, parse_metrics, score
    from vitdeblur_jax.evaluation.tables import terminal

    if options.out:
        check_on_disk(options.out, "scores")
    out = Path(options.out) if options.out else None
    find_devices()
    scores = score(
        options.data,
        options.set,
        [parse_method(text) for text in options.methods],
        None if options.metrics is None else parse_metrics(options.metrics),
        split=options.split,
        weights_folder=options.metric_weights,
        partial=options.partial,
        published=options.published,
        out=out,
        profile=find_protocol(options.profile),
    )
    if out:
        tell(f"written: {write_scores(out, scores)}")
    show(*terminal(scores, results_go_to_terminal()).splitlines(), styled=True)
