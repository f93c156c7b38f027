"""Scores folders of saved images, from any method, against the sharp images of a data set.

An image of 16 bits is compared with its target at full depth, both as fractions of 65535. An image
of 8 bits is compared with the upper 8 bits of its target, as in the published protocol.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from vitdeblur_jax.data.image_io import DecodedImage, as_8_bits, read_image
from vitdeblur_jax.data.layouts import find_pairs
from vitdeblur_jax.data.pairs import Pair, describe
from vitdeblur_jax.evaluation.alignment import align, align_to_frame, target_as_deep
from vitdeblur_jax.evaluation.match import Match, match
from vitdeblur_jax.evaluation.measure import Measure, load_metrics, measuring_threads
from vitdeblur_jax.evaluation.metrics_json import (
    check_results_folder,
    image_record,
    new_method,
    new_scores,
    summarize,
)
from vitdeblur_jax.evaluation.profiles import OURS, Profile, find_profile, profile_notes
from vitdeblur_jax.evaluation.published import published_figures, published_notes
from vitdeblur_jax.evaluation.report import REPORT, add_image
from vitdeblur_jax.evaluation.subsets import find_subsets
from vitdeblur_jax.inference.pixels import as_float
from vitdeblur_jax.metrics import METRICS
from vitdeblur_jax.utils.errors import UserError, known, one_line
from vitdeblur_jax.utils.files import home_expanded
from vitdeblur_jax.utils.natural_order import some
from vitdeblur_jax.utils.output import printable, tell
from vitdeblur_jax.utils.progress import Progress

SETS = ("dpdd", "dpdd_dual_pixel", "realdof", "lfdof", "pairs")


class Method(NamedTuple):
    """A folder of saved images to score.

    Attributes:
      name: Name in the tables.
      folder: Folder of the images.
      profile: Profile of the system that saved them; None to find it.
    """

    name: str
    folder: Path
    profile: Profile | None = None


def parse_method(text: str) -> Method:
    """Parses `NAME=FOLDER` or `NAME:PROFILE=FOLDER`.

    Raises:
      UserError: The text has neither form, or the profile does not exist.
    """
    head, equals, folder = text.partition("=")
    name, colon, profile = head.rpartition(":")
    name = name if colon else head
    if not (name and equals and folder):
        raise UserError(f"{text!r} is no NAME=FOLDER, such as NRKNet=results/nrknet")
    return Method(name, Path(home_expanded(folder)), find_profile(profile) if colon else None)


def parse_metrics(text: str) -> list[str]:
    """Parses names of metrics separated by commas, or "all".

    Raises:
      UserError: A name is unknown or repeated.
    """
    words = [word.strip() for word in text.split(",")]
    names = list(METRICS) if text == "all" else [word for word in words if word]
    if not names:
        raise UserError(f"{text!r} names no metric; there are {', '.join(METRICS)}")
    _refuse_twice("metric", [known("metric", name, METRICS) for name in names])
    return names


def score(
    root: str | os.PathLike[str],
    layout: str,
    methods: Sequence[Method],
    metrics: Sequence[str] | None = None,
    split: str = "test",
    weights_folder: Path | None = None,
    partial: bool = False,
    published: bool = False,
    out: Path | None = None,
    profile: Profile = OURS,
) -> dict[str, Any]:
    """Scores folders of saved images over a data set.

    Args:
      root: Folder of the data set.
      layout: One of `SETS`.
      methods: The folders, each name once.
      metrics: Names in `METRICS`; None for those of the profile. Metrics without weights on disk
        are skipped, with a note.
      split: Split of the data set.
      weights_folder: See `vitdeblur_jax.evaluation.measure`.
      partial: Also score incomplete folders.
      published: Add the published figures.
      out: Folder for the images of the report; None for no images.
      profile: From `find_protocol`: the published evaluation to use for all methods.

    Returns:
      The contents of metrics.json, see `vitdeblur_jax.evaluation.metrics_json`.

    Raises:
      UserError: The data set, a folder, a profile or a metric is invalid. An image is missing,
        damaged, or has a size that its profile does not explain. `out` holds other files.
    """
    pairs = find_pairs(root, known("set", layout, SETS), split)
    _refuse_twice("method", [method.name for method in methods])
    paper = published_figures(layout, split) if published else None
    subsets = find_subsets(pairs, layout, split)
    matches = [_match(method, pairs, partial) for method in methods]
    tell(describe(pairs))
    wanted = profile.protocol.metrics if metrics is None else metrics
    measure, kept, left_out = load_metrics(wanted, weights_folder, profile.protocol)
    if out is not None:
        check_results_folder(out)
        _begin_report(out)
    names = [pair.name for pair in pairs]
    scores = new_scores(layout, split, str(root), names, kept, profile.protocol)
    scores["methods"] = [_new_method(*both) for both in zip(methods, matches, strict=True)]
    scores["notes"] = [*left_out, *profile_notes(profile, len(pairs[0].source))]
    if paper:
        scores["published"] = _by_method(paper.figures, methods, kept)
        scores["notes"] += published_notes(layout, paper.source, len(pairs), kept)

    scoring = _Scoring(methods, matches, measure, out, profile)

    def score_one(number: int) -> list[dict[str, Any] | None]:
        return _score_pair(scoring, pairs[number], number)

    _add_records(scores, pairs, _in_parallel(score_one, len(pairs)))
    summarize(scores, subsets)
    return scores


def _add_records(scores, pairs, records_of_pairs):
    for pair, records in zip(pairs, records_of_pairs, strict=True):
        for method, record in zip(scores["methods"], records, strict=True):
            if record:
                method["notes"] += record.pop("notes")
                method["images"][pair.name] = record
    for method in scores["methods"]:
        count = len(method["images"])
        notes = Counter(method["notes"]).items()
        method["notes"] = [f"{number} of {count} {note}" for note, number in notes]
        method["rule"] += _sizes_in_words(method["images"].values())


def _begin_report(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / REPORT).unlink(missing_ok=True)  # its images are replaced one by one
    except OSError as error:
        raise UserError(f"{out}: cannot be written as a folder ({one_line(error)})") from error


def _match(method: Method, pairs: Sequence[Pair], partial: bool) -> Match:
    try:
        found = match(method.folder, pairs, method.profile)
        if found.missing and not partial:
            raise UserError(
                f"{method.folder} lacks {len(found.missing)} of {len(pairs)} images: "
                f"{some(found.missing.values())}; --partial scores the others"
            )
    except UserError as error:
        raise UserError(printable(f"{method.name}: {error}")) from error
    return found


def _new_method(method: Method, found: Match) -> dict[str, Any]:
    systems = ", ".join(profile.system for profile in found.profiles)
    record = new_method(method.name, str(method.folder), systems, found.rule)
    return record | {"partial": bool(found.missing), "missing": list(found.missing)}


def _in_parallel(work: Callable[[int], Any], count: int) -> list[Any]:
    """Calls `work` for each number in threads; decoding and measuring release the GIL."""
    executor, results = ThreadPoolExecutor(measuring_threads()), []
    try:
        with Progress(count, "images") as progress:
            for result in executor.map(work, range(count)):
                results.append(result)
                progress.advance()
    finally:
        executor.shutdown(cancel_futures=True)
    return results


class _Scoring(NamedTuple):
    """All that is fixed before the first image."""

    methods: Sequence[Method]
    matches: Sequence[Match]
    measure: Measure
    out: Path | None
    profile: Profile


def _score_pair(scoring, pair, number):
    """Returns the record of each method's image, or None if the method has none."""
    sharp, out, profile = _read(pair.target), scoring.out, scoring.profile
    height, width = sharp.pixels.shape[:2]
    profile.frame.check(height, width, profile.system, printable(str(pair.target)))
    if out is not None:
        add_image(out, number, 0, as_8_bits(profile.frame.fit(sharp.pixels)), None)
    records = []
    for order, (method, found) in enumerate(zip(scoring.methods, scoring.matches, strict=True), 1):
        path = found.files.get(pair.name)
        if path is None:
            records.append(None)
            continue
        saved = _read(path)
        target = target_as_deep(sharp.pixels, saved.pixels, profile.protocol.bits(len(pair.source)))
        image, reference, size_note = _aligned(path, saved.pixels, target, method, found, profile)
        try:
            figures = scoring.measure(as_float(image), as_float(reference))
        except UserError as error:
            raise UserError(printable(f"{method.name}: {path}: {error}")) from error
        if out is not None:
            add_image(out, number, order, as_8_bits(image), as_8_bits(reference))
        file = path.relative_to(method.folder).as_posix()
        record = image_record(file, size_note, figures)
        records.append(record | {"notes": _file_notes(saved, sharp)})
    return records


def _file_notes(image: DecodedImage, target: DecodedImage) -> list[str]:
    """Returns what affects the figures of a file, or is missing from them."""
    notes = {
        "saved as JPEG: its losses are measured, too": image.compression.quantization is not None,
        "gray, which the targets are not": image.is_gray and not target.is_gray,
        "with transparency, which is left out": image.alpha is not None,
    }
    return [note for note, is_so in notes.items() if is_so]


def _aligned(path, image, target, method, found, profile):
    frame = profile.frame
    if profile is OURS:
        aligned = align(image, target, found.profiles)
    else:
        aligned = align_to_frame(image, target, found.profiles, frame)
    if aligned is not None:
        return aligned
    size, wanted, framed = (
        f"{width} x {height}"
        for height, width in (image.shape[:2], target.shape[:2], frame.size(*target.shape[:2]))
    )
    if align(image, target, found.profiles) is not None:
        message = f"the profile {profile.system} measures {framed}, {frame.in_words}"
        message += ", and this image is padded otherwise" if size == framed else ""
        raise UserError(printable(f"{method.name}: {path} is {size}; {message}"))
    systems = " or ".join(profile.system for profile in found.profiles)
    raise UserError(
        printable(
            f"{method.name}: {path} is {size}, its target {wanted}, which no cropping or "
            f"padding of {systems} explains; if another system saved it, name it as in "
            f"{method.name}:nrknet={method.folder}"
        )
    )


def _read(path: Path) -> DecodedImage:
    try:
        return read_image(path)
    except UserError as error:
        raise UserError(printable(str(error))) from error


def _sizes_in_words(records) -> str:
    records = list(records)
    notes = Counter(record["size_note"] for record in records if record["size_note"])
    return "".join(f"; {count} of {len(records)} {note}" for note, count in notes.items())


def _by_method(figures, methods, metrics):
    """Returns the published figures by the methods' names, or their systems' where not scored."""
    names = {method.name.casefold(): method.name for method in methods}
    by_profile = {m.profile.system.casefold(): m.name for m in methods if m.profile}
    renamed = {
        names.get(system.casefold(), by_profile.get(system.casefold(), system)): row
        for system, row in figures.items()
    }
    return {name: {m: row[m] for m in metrics if m in row} for name, row in renamed.items()}


def _refuse_twice(what: str, names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(printable(f"the {what} {twice[0]!r} is there twice; name it once"))
