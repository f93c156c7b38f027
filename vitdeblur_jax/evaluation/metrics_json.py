"""The contents of metrics.json, of runs and of scored folders, and the files made of it.

    set, split, data    the data set
    versions            of the packages, and the device
    definitions         by metric: title, definition, better ("higher" or "lower"), digits
    images              the names of the pairs, in order
    methods             for each: name, folder, profile, rule, partial, missing, notes;
                        images: by name: file, size_note, metrics; mean and interval by metric;
                        subsets: means by subset and metric
    comparisons         of each two methods, for each metric: better and worse, their names; by, the
                        mean difference over the images of both, 0 or more in the metric's unit;
                        interval of it; p_value
    published           by method, then by metric
    notes               anything else to know

A null figure is infinite: the PSNR of identical images, or a mean that includes one. A null
interval or p value could not be computed.
"""

import json
import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from vitdeblur_jax.evaluation import tables
from vitdeblur_jax.evaluation.protocols import UNIFORM, Protocol
from vitdeblur_jax.evaluation.report import REPORT, write_report
from vitdeblur_jax.evaluation.statistics import mean_interval, paired_difference
from vitdeblur_jax.metrics import METRICS
from vitdeblur_jax.utils.buckets import AnyPath, is_folder, lexists
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.files import write_text
from vitdeblur_jax.utils.json_files import read_json
from vitdeblur_jax.utils.versions import versions

_DEFINITION = ("title", "definition", "better", "digits")
_JSON = "metrics.json"
_ONLY_IN_RUNS = "checkpoint_sha256"  # evaluate.py adds it
_TABLES = {
    "table.csv": tables.table_csv,
    "images.csv": tables.images_csv,
    "table.md": tables.markdown,
    "table.tex": tables.latex,
}


def new_scores(
    layout: str,
    split: str,
    data: str,
    names: Sequence[str],
    metrics: Sequence[str],
    protocol: Protocol = UNIFORM,
) -> dict[str, Any]:
    """Returns scores without methods, for the pairs and the metrics named."""
    return {
        "set": layout,
        "split": split,
        "data": data,
        "versions": versions(),
        "definitions": {m: _definition(m, protocol) for m in metrics},
        "images": list(names),
        "methods": [],
        "comparisons": [],
        "published": {},
        "notes": [],
    }


def _definition(metric, protocol):
    found = {key: getattr(METRICS[metric], key) for key in _DEFINITION}
    if words := protocol.values_for(metric).in_words:
        found["definition"] += f"; {words}"
    return found


def new_method(name: str, folder: str, profile: str, rule: str) -> dict[str, Any]:
    """Returns a method without images."""
    return {
        "name": name,
        "folder": folder,
        "profile": profile,
        "rule": rule,
        "partial": False,
        "missing": [],
        "notes": [],
        "images": {},
        "mean": {},
        "interval": {},
        "subsets": {},
    }


def image_record(file: str, size_note: str, figures: Mapping[str, float]) -> dict[str, Any]:
    """Returns the record of one image."""
    return {
        "file": file,
        "size_note": size_note,
        "metrics": {name: _or_null(value) for name, value in figures.items()},
    }


def summarize(scores: dict[str, Any], subsets: Mapping[str, Sequence[str]]) -> None:
    """Computes means, intervals, subsets and comparisons from the images.

    Args:
      scores: Made by `new_scores` and `new_method`; changed in place.
      subsets: Names of images, by subset.
    """
    metrics, methods = scores["definitions"], scores["methods"]
    for method in methods:
        names = [name for name in scores["images"] if name in method["images"]]
        method["mean"] = _means(method, names, metrics)
        method["interval"] = {m: mean_interval(_values(method, names, m)) for m in metrics}
        parts = {key: [name for name in names if name in part] for key, part in subsets.items()}
        method["subsets"] = {k: _means(method, part, metrics) for k, part in parts.items() if part}
    compared = [
        _comparison(first, second, metric, definition["better"], scores["images"])
        for first, second in combinations(methods, 2)
        for metric, definition in metrics.items()
    ]
    scores["comparisons"] = [comparison for comparison in compared if comparison]


def check_holds_no_run(folder: AnyPath) -> None:
    """Raises `UserError` if the folder is the workdir of a training run."""
    if is_folder(folder / "checkpoints") and lexists(folder / "config.json"):
        raise UserError(
            f"{folder} is the workdir of a training run; choose another folder for the results"
        )


def check_results_folder(folder: AnyPath) -> None:
    """Checks that `vitdeblur score` may write its results into a folder.

    Raises:
      UserError: The folder holds results of evaluate.py, a training run, or other files with the
        same names.
    """
    check_holds_no_run(folder)
    path = folder / _JSON
    there = [name for name in (_JSON, *_TABLES, REPORT) if os.path.lexists(folder / name)]
    if not there:
        return
    if not os.path.lexists(path):
        raise UserError(
            f"{folder / there[0]} is not from an earlier `vitdeblur score`: there is no {_JSON} "
            "beside it; choose another folder"
        )
    contents = read_json(path)
    if _ONLY_IN_RUNS in contents:
        raise UserError(
            f"{folder} is the workdir of an evaluate.py run, which could not be resumed without "
            f"its {_JSON}; choose another folder"
        )
    if not set(new_scores("", "", "", [], [])) <= contents.keys():
        raise UserError(f"{path} is not from an earlier `vitdeblur score`; choose another folder")


def write_json(folder: AnyPath, contents: dict[str, Any]) -> AnyPath:
    """Writes metrics.json into a folder and returns its path."""
    path = folder / _JSON
    write_text(path, json.dumps(contents, indent=2, allow_nan=False) + "\n")
    return path


def write_scores(folder: AnyPath, scores: dict[str, Any]) -> AnyPath:
    """Writes metrics.json, the tables as CSV, Markdown and LaTeX, and the report into a folder.

    Returns:
      The report's path.
    """
    write_json(folder, scores)
    for name, text_of in _TABLES.items():
        write_text(folder / name, text_of(scores))
    return write_report(folder, scores)


def _means(method, names, metrics):
    return {m: _or_null(np.mean(_values(method, names, m))) for m in metrics if names}


def _values(method, names, metric):
    figures = (method["images"][name]["metrics"][metric] for name in names)
    return np.array([np.inf if value is None else value for value in figures])


def _comparison(first, second, metric, better, names):
    common = [name for name in names if name in first["images"] and name in second["images"]]
    found = paired_difference(*(_values(method, common, metric) for method in (first, second)))
    if found is None:
        return None
    names = [first["name"], second["name"]]
    if (found.mean < 0) == (better == "higher") and found.mean != 0:
        names.reverse()
    # The interval's ends change places where its sign does.
    ends = found.interval if found.mean >= 0 else found.interval and [-x for x in found.interval]
    return {
        "metric": metric,
        "better": names[0],
        "worse": names[1],
        "by": abs(found.mean),
        "interval": ends and tuple(sorted(ends)),
        "p_value": found.p_value,
    }


def _or_null(value):
    if np.isnan(value):  # null stands for infinity
        raise UserError("a figure is NaN; the image it is of holds values that are not finite")
    return float(value) if np.isfinite(value) else None
