"""Checks a data set: counts, pairs, sizes, damaged files, and images in more than one split.

These are errors:

- A count differs from the published one. Published counts exist for DPDD, RealDOF, LFDOF by scene,
  CUHK, PixelDP and the test split of Restormer's repack (its other splits contain crops). They do
  not exist for other pairs, plain images and LFDOF's flat sample. A missing split is reported but
  is not an error, because an evaluation needs only one split.
- An image is not in any pair of `layouts.find_pairs`.
- The images of a pair differ in size, or two views differ in bit depth. Other mixtures of 8 and 16
  bits are only reported.
- `image_io` cannot decode an image completely.
- Images of different splits have the same decoded pixels (size, bit depth and values, upright),
  regardless of compression and name. The check does not find resized copies or copies with another
  bit depth.

Other files in the folders are reported but are not errors, because no reader uses them.
"""

import contextlib
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vitdeblur_jax.data.image_io import read_rgb
from vitdeblur_jax.data.integrity_report import (
    DataReport,
    Problem,
    SplitReport,
    report_json,
    report_lines,
)
from vitdeblur_jax.data.layouts import DPDD_COUNTS, SPLITS, find_pairs
from vitdeblur_jax.data.pairs import Pair, UnpairedError, describe
from vitdeblur_jax.data.recognition import Part, images_in, recognize
from vitdeblur_jax.utils.errors import CHECKED_AND_WRONG, UserError
from vitdeblur_jax.utils.natural_order import some
from vitdeblur_jax.utils.output import show
from vitdeblur_jax.utils.progress import Progress


def _of_each(count: int) -> dict[str, int]:
    return dict.fromkeys(("blurred", "left", "right", "sharp"), count)


PUBLISHED = {
    **{("DPDD", split): _of_each(count) for split, count in DPDD_COUNTS.items()},
    ("DPDD repack", "test"): _of_each(DPDD_COUNTS["test"]),
    ("RealDOF", "test"): _of_each(50),
    ("LFDOF", "train"): {"blurred": 11_261, "sharp": 790},
    ("LFDOF", "test"): {"blurred": 725, "sharp": 50},
    ("CUHK", "test"): _of_each(704),
    ("PixelDP", "test"): _of_each(13),
}


@dataclass(frozen=True)
class _Decoded:
    width: int
    height: int
    bits: int
    digest: bytes


_Results = Mapping[Path, _Decoded | str]  # or the error message of the file


def run_check(root: str | os.PathLike[str], as_json: bool, decode: bool = True) -> int:
    """Checks a data set and prints the report, a table or JSON, on standard output.

    Returns:
        The exit status: 0 without errors, otherwise `CHECKED_AND_WRONG`.

    Raises:
        UserError: See `check_data`.
    """
    report = check_data(root, decode)
    show(*(report_json(report).splitlines() if as_json else report_lines(report)))
    return CHECKED_AND_WRONG if report.problems else 0


def check_data(root: str | os.PathLike[str], decode: bool = True) -> DataReport:
    """Checks a data set. The docstring of this module lists the checks.

    Args:
        root: A folder that `recognition.recognize` supports.
        decode: Decode all files, on all cores, with progress on standard error. Otherwise only
            names and counts are checked, which takes about a second.

    Raises:
        UserError: No data set is recognized, or the folder cannot be listed.
    """
    root = Path(os.path.abspath(root))
    found = recognize(root)
    files = {
        part.split: {side: images_in(folders) for side, folders in part.folders.items()}
        for part in found.parts
    }
    images = [path for sides in files.values() for path in _all(sides)]
    decoded = _decode_all(images) if decode else {}
    checked = [_check_part(root, found.dataset, p, files[p.split], decoded) for p in found.parts]
    problems = [problem for _, part_problems in checked for problem in part_problems]
    absent = [s for s in SPLITS if (found.dataset, s) in PUBLISHED and s not in files]
    return DataReport(
        root=str(root),
        dataset=found.dataset,
        decoded=decode,
        splits=tuple(split_report for split_report, _ in checked),
        absent=tuple(absent),
        problems=(*problems, *_duplicates(root, files, decoded)),
        other_files=_other_files(root, found.parts, images),
    )


def _check_part(
    root: Path, dataset: str, part: Part, files: Mapping[str, list[Path]], decoded: _Results
) -> tuple[SplitReport, list[Problem]]:
    published = PUBLISHED.get((dataset, part.split), {})
    published = {side: published[side] for side in files if side in published}
    pairs, problems = _find_pairs(root, part, _all(files))
    every_pair = [pair for of_layout in pairs.values() for pair in of_layout]
    results = {path: decoded[path] for path in _all(files) if path in decoded}
    depths = Counter(str(file.bits) for file in results.values() if isinstance(file, _Decoded))
    split_report = SplitReport(
        split=part.split,
        layouts=part.layouts,
        files={side: len(paths) for side, paths in files.items()},
        published=published,
        pairs=len(pairs[part.layouts[0]]),
        paired={name: line for name in pairs if (line := describe(pairs[name]))},
        bit_depths=dict(sorted(depths.items(), key=lambda item: int(item[0]))),
    )
    return split_report, [
        *_miscounts(split_report),
        *problems,
        *_unreadable(root, part.split, results),
        *_unlike(root, part.split, every_pair, results),
    ]


def _miscounts(split: SplitReport) -> list[Problem]:
    return [
        Problem(
            "count", (split.split,), f"{split.files[side]} {side} images instead of {published}"
        )
        for side, published in split.published.items()
        if split.files[side] != published
    ]


def _find_pairs(
    root: Path, part: Part, files: Sequence[Path]
) -> tuple[dict[str, list[Pair]], list[Problem]]:
    """Returns the pairs by layout, and the problems found."""
    found, messages = {}, []
    for layout in part.layouts:
        try:
            found[layout] = find_pairs(root, layout, part.split)
        except UserError as error:
            found[layout] = error.pairs if isinstance(error, UnpairedError) else []
            messages.append(_shortened(root, str(error)))
    paired = {p for pairs in found.values() for q in pairs for p in (*q.source, q.target)}
    left_over = _relative(root, (path for path in files if path not in paired) if paired else ())
    if left_over and not messages:
        messages.append(f"not in any pair: {some(left_over)}")
    problems = [Problem("pairs", (part.split,), message, left_over) for message in messages]
    return found, problems


def _unreadable(root: Path, split: str, results: _Results) -> list[Problem]:
    return [
        Problem("unreadable", (split,), _shortened(root, result), _relative(root, [path]))
        for path, result in results.items()
        if isinstance(result, str)
    ]


def _unlike(root: Path, split: str, pairs: Sequence[Pair], results: _Results) -> list[Problem]:
    """Compares the sizes of all images of a pair, and the depths of its views."""
    problems = []
    for pair in pairs:
        whole = [*pair.source, *([pair.target] if pair.target else [])]
        known = {p: results[p] for p in whole if isinstance(results.get(p), _Decoded)}
        sizes = {p: f"{file.width} x {file.height}" for p, file in known.items()}
        depths = {p: f"{known[p].bits} bits" for p in pair.source if p in known}
        for kind, facts in (("size", sizes), ("depth", depths)):
            if len(set(facts.values())) > 1:
                names = _relative(root, facts)
                told = [f"{n} is {f}" for n, f in zip(names, facts.values(), strict=True)]
                problems.append(Problem(kind, (split,), ", ".join(told), names))
    return problems


def _duplicates(
    root: Path, files: Mapping[str, Mapping[str, list[Path]]], decoded: _Results
) -> list[Problem]:
    alike = defaultdict(list)
    for split, sides in files.items():
        for path in _all(sides):
            if isinstance(decoded.get(path), _Decoded):
                alike[decoded[path].digest].append((split, path))
    problems = []
    for places in alike.values():
        splits = tuple(dict.fromkeys(split for split, _ in places))
        if len(splits) > 1:
            names = _relative(root, [path for _, path in places])
            message = f"the same image: {some(names)}"
            problems.append(Problem("duplicate", splits, message, names))
    return problems


def _other_files(root: Path, parts: Sequence[Part], images: Sequence[Path]) -> tuple[str, ...]:
    known, others = set(images), []
    for folder in (f for part in parts for folders in part.folders.values() for f in folders):
        with contextlib.suppress(OSError):  # `_find_pairs` reports a missing folder
            unknown = [e for e in folder.iterdir() if e not in known and e.name[0] != "."]
            others += sorted(entry for entry in unknown if not entry.is_dir())
    return _relative(root, others)


def _decode_all(paths: Sequence[Path]) -> _Results:
    executor = ThreadPoolExecutor(os.cpu_count())  # decoders and hashes let other threads run
    try:
        with Progress(len(paths), "images") as progress:
            results = {}
            for path, result in zip(paths, executor.map(_decode, paths), strict=True):
                results[path] = result
                progress.advance()
            return results
    finally:
        executor.shutdown(cancel_futures=True)


def _decode(path: Path) -> _Decoded | str:
    try:
        pixels = read_rgb(path)
    except UserError as error:
        return str(error)  # the exception would keep the file's bytes in memory
    height, width, _ = pixels.shape
    content = hashlib.blake2b(f"{pixels.dtype} {height} x {width}".encode(), digest_size=16)
    content.update(pixels)
    return _Decoded(width, height, pixels.itemsize * 8, content.digest())


def _shortened(root: Path, message: str) -> str:
    return message.replace(f"{root}{os.sep}", "")


def _all(sides: Mapping[str, list[Path]]) -> list[Path]:
    return [path for paths in sides.values() for path in paths]


def _relative(root: Path, paths: Iterable[Path]) -> tuple[str, ...]:
    return tuple(os.path.relpath(path, root) for path in paths)
