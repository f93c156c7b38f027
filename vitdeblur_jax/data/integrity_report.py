"""The report of a data set check, as JSON and as text."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from vitdeblur_jax.utils.natural_order import some
from vitdeblur_jax.utils.output import printable
from vitdeblur_jax.utils.table import format_table

_LINES_A_KIND = 10


@dataclass(frozen=True)
class Problem:
    """An error in a data set.

    Attributes:
        kind: "count", "pairs", "size", "depth", "unreadable" or "duplicate".
        splits: The splits with the error; for duplicates, all splits that have the image.
        message: One line.
        paths: All files concerned, relative to the root.
    """

    kind: str
    splits: tuple[str, ...]
    message: str
    paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class SplitReport:
    """The content of one split.

    Attributes:
        split: "train", "val", "test" or "all".
        layouts: The names in `layouts.LAYOUTS` that read it.
        files: The number of images by side; see `recognition.Part` for the sides.
        published: The published numbers by side; empty if there are none.
        pairs: The number of pairs; without sharp images, the number of images.
        paired: How the images were paired, with the first and the last pair, by layout.
        bit_depths: The number of images by bits a channel, "8" and "16"; empty if not decoded.
    """

    split: str
    layouts: tuple[str, ...]
    files: dict[str, int]
    published: dict[str, int]
    pairs: int
    paired: dict[str, str]
    bit_depths: dict[str, int]


@dataclass(frozen=True)
class DataReport:
    """The result of a check.

    Attributes:
        root: The absolute path of the folder.
        dataset: See `recognition.Recognized`.
        decoded: Whether the files were decoded; otherwise only names and counts were checked.
        splits: The splits found.
        absent: Published splits that are missing.
        problems: All errors.
        other_files: Files that are not images, relative to the root.
    """

    root: str
    dataset: str
    decoded: bool
    splits: tuple[SplitReport, ...]
    absent: tuple[str, ...]
    problems: tuple[Problem, ...]
    other_files: tuple[str, ...]


def report_json(report: DataReport) -> str:
    """Returns a report as JSON: its fields, and "whole", which is true if there are no errors."""
    return json.dumps({"whole": not report.problems, **dataclasses.asdict(report)}, indent=2)


def report_lines(report: DataReport) -> list[str]:
    """Returns a report as lines: a table of the splits, then one line for each error."""
    layouts = ", ".join(dict.fromkeys(name for split in report.splits for name in split.layouts))
    sides = dict.fromkeys(side for split in report.splits for side in split.files)
    rows = [_row(split, sides, report) for split in report.splits]
    header = ("split", *sides, "pairs", "bits", "errors")
    lines = [f"{report.dataset} in {report.root} (layout {layouts})", ""]
    lines += [*format_table(header, rows).splitlines(), ""]
    lines += [
        f"{split.split}{f', {layout}' * (len(split.paired) > 1)}: {paired}"
        for split in report.splits
        for layout, paired in split.paired.items()
    ]
    kinds = Counter()
    for problem in report.problems:
        kinds[problem.kind] += 1
        if kinds[problem.kind] <= _LINES_A_KIND:
            lines.append(f"{problem.kind} ({', '.join(problem.splits)}): {problem.message}")
    for kind, count in kinds.items():
        if count > _LINES_A_KIND:
            lines.append(f"{kind}: {count - _LINES_A_KIND} more, see the JSON report")
    if report.absent:
        lines.append(f"missing splits: {', '.join(report.absent)}")
    if report.other_files:
        lines.append(f"ignored, in unsupported formats: {some(report.other_files)}")
    checked = "names, counts and all pixels" if report.decoded else "names and counts only"
    count = len(report.problems)
    verdict = f"{count} error{'s' * (count > 1)}" if count else "no errors"
    lines.append(f"{verdict} (checked {checked})")
    return [printable(line) for line in lines]


def _row(split: SplitReport, sides: Iterable[str], report: DataReport) -> tuple[str, ...]:
    counts = []
    for side in sides:
        count, published = split.files.get(side, 0), split.published.get(side)
        counts.append(f"{count} of {published}" if published else str(count))
    depths = split.bit_depths
    bits = ", ".join(depths if len(depths) == 1 else (f"{k}: {n}" for k, n in depths.items()))
    wrong = sum(split.split in problem.splits for problem in report.problems)
    pairs = str(split.pairs) if "sharp" in split.files else "-"
    return split.split, *counts, pairs, bits or "-", str(wrong)
