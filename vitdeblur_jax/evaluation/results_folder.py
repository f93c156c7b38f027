"""The results folder of evaluate.py: restored images, metrics.json, tables and report.

metrics.json has the format of `vitdeblur_jax.evaluation.metrics_json`, with three methods: the
"input", the float "output", and the PNG as "saved". It also holds:

    config, checkpoint_sha256   of the run
    restored                    by image: source, target, width, height, seconds, approximate_tile

With several processes, the first one writes this file. Each other process writes its records to
`metrics.part-INDEX.json`, which the first process merges at the end, or when a new run starts.
"""

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence

import ml_collections
import numpy as np

from vitdeblur_jax.data.pairs import Pair
from vitdeblur_jax.evaluation.metrics_json import (
    check_holds_no_run,
    image_record,
    new_method,
    new_scores,
    summarize,
    write_json,
    write_scores,
)
from vitdeblur_jax.evaluation.profiles import find_protocol
from vitdeblur_jax.evaluation.report import REPORT
from vitdeblur_jax.evaluation.tables import terminal
from vitdeblur_jax.utils.buckets import AnyPath
from vitdeblur_jax.utils.errors import UserError, one_line
from vitdeblur_jax.utils.files import write_text
from vitdeblur_jax.utils.json_files import read_json
from vitdeblur_jax.utils.output import printable, tell
from vitdeblur_jax.utils.table import format_table

COMPARED = {
    "input": "the blurred images; the mean of two views",
    "output": "the network's float output",
    "saved": "the PNGs as they were written",
}
# Config keys that change the results; the weights are compared by their digest.
_KEYS_OF_RESULTS = (
    *("network", "data_dir", "layout", "split", "profile", "bit_depth"),
    *("stride", "tile", "dtype", "precision", "metrics"),
)


class Results:
    """The results of one run, saved after each image."""

    def __init__(self, folder: AnyPath, contents: dict, part: int):
        self._folder, self._contents, self._part = folder, contents, part
        self._adding = threading.Lock()

    @classmethod
    def open(
        cls,
        folder: AnyPath,
        config: ml_collections.ConfigDict,
        checkpoint_digest: str,
        names: Sequence[str],
        metrics: Sequence[str],
        part: int = 0,
    ):
        """Resumes from the results in `folder`, or starts new ones.

        Args:
          folder: The results folder.
          config: Config of this run.
          checkpoint_digest: Digest of its weights.
          names: Names of all images. Results of other images are dropped, and those of images
            that have another place in the list than before, because the report's files are named
            by place.
          metrics: Metrics to compute.
          part: Index of this process. Process 0 must open the folder first.

        Raises:
          UserError: The folder holds results of another config or checkpoint, or a training run,
            or cannot be written.
        """
        check_holds_no_run(folder)
        data = config.layout, config.split, str(config.data_dir)
        fresh = {
            "config": config.to_dict(),
            "checkpoint_sha256": checkpoint_digest,
            **new_scores(*data, names, metrics, find_protocol(config.profile).protocol),
            "restored": {},
        }
        results = cls(folder, fresh, part)
        with results._unusable_folder_error():
            if (folder / "metrics.json").exists():
                results._merge(_read_run(folder / "metrics.json"))
            (folder / "restored").mkdir(parents=True, exist_ok=True)
        if part == 0:
            results._merge_parts()
        return results

    def image_path(self, name: str) -> AnyPath:
        """Returns the path of the restored image of that name."""
        return self._folder / "restored" / f"{name}.png"

    def has(self, name: str) -> bool:
        """Returns whether that image is restored and measured."""
        return name in self._contents["restored"] and self.image_path(name).exists()

    def add(
        self,
        pair: Pair,
        image: np.ndarray,
        seconds: float,
        figures: Mapping[str, Mapping[str, float]],
        tile: int | None = None,
    ) -> None:
        """Records an image and saves all records; several threads may call this method.

        Args:
          pair: Its pair.
          image: Its pixels.
          seconds: Duration of its restoration.
          figures: The metrics of each method, with the keys of `COMPARED`.
          tile: Side of its tiles, in pixels, if the network takes the whole image and these are an
            approximation.
        """
        restored = {
            "source": [str(path) for path in pair.source],
            "target": str(pair.target) if pair.target else None,
            "width": image.shape[1],
            "height": image.shape[0],
            "seconds": round(seconds, 3),
            "approximate_tile": tile,
        }
        methods = []
        for name, values in figures.items():
            file = pair.source[0] if name == "input" else self.image_path(pair.name)
            record = image_record(str(file), "", values)
            methods.append({"name": name, "images": {pair.name: record}})
        with self._adding:
            self._add_records({"methods": methods, "restored": {pair.name: restored}})
            self._save()

    def finish(self, subsets: Mapping[str, Sequence[str]], notes: Sequence[str]) -> AnyPath:
        """Computes means, and writes the tables and the report if anything was measured.

        Only process 0 calls it, after all other processes have finished.

        Returns:
          The path of the file to open first.
        """
        self._merge_parts()
        records = self._contents["restored"].values()
        seconds = np.mean([record["seconds"] for record in records])
        notes = [*notes, f"seconds an image, for restoring alone: {seconds:.1f}"]
        if count := sum(record.get("approximate_tile") is not None for record in records):
            notes.append(
                f"{count} of {len(records)} images were restored approximately, in tiles; the "
                "network takes the whole image"
            )
        self._contents["notes"] = notes
        summarize(self._contents, subsets)
        write = write_scores if self._contents["methods"] else write_json
        return write(self._folder, self._contents)

    def table(self, styled: bool) -> str:
        """Returns the tables for the terminal, or a list of images without targets."""
        if self._contents["methods"]:
            return terminal(self._contents, styled)
        rows = [
            (
                printable(name),
                str(record["width"]),
                str(record["height"]),
                f"{record['seconds']:.1f}",
            )
            for name, record in self._contents["restored"].items()
        ]
        return format_table(("image", "width", "height", "seconds"), rows)

    def _method(self, name: str) -> dict:
        methods = {method["name"]: method for method in self._contents["methods"]}
        if name not in methods:
            folder = str(self._folder / "restored")
            methods[name] = new_method(name, folder, "evaluate.py", COMPARED[name])
            self._contents["methods"].append(methods[name])
        return methods[name]

    def _save(self) -> None:
        if self._part == 0:
            write_json(self._folder, self._contents)
        else:
            path = self._folder / f"metrics.part-{self._part}.json"
            write_text(path, json.dumps(self._contents))

    def _merge_parts(self) -> None:
        parts = sorted(self._folder.glob("metrics.part-*.json"))
        for path in parts:
            with self._unusable_folder_error():
                self._merge(_read_run(path))
        self._save()
        for path in parts:
            path.unlink()

    def _merge(self, earlier: dict) -> None:
        """Adds the images of earlier contents, in the order of their names."""
        if earlier["restored"]:
            _check_same_run(earlier, self._contents, self._folder)
        images = self._contents["images"]
        kept = _at_same_place(earlier, images)
        moved = (earlier["restored"].keys() - kept["restored"].keys()) & set(images)
        if moved and self._part == 0:
            tell(f"the list of images has changed; {len(moved)} of them are restored again")
        if earlier["images"] != images and self._part == 0:
            (self._folder / REPORT).unlink(missing_ok=True)  # its images are replaced one by one
        self._add_records(kept)

    def _add_records(self, found: dict) -> None:
        """Adds images, in the order of their names."""
        for method in found["methods"]:
            ours = self._method(method["name"])
            ours["images"] = self._in_order(ours["images"] | method["images"])
        restored = self._contents["restored"] | found["restored"]
        self._contents["restored"] = self._in_order(restored)

    def _in_order(self, records: dict) -> dict:
        return {name: records[name] for name in self._contents["images"] if name in records}

    @contextlib.contextmanager
    def _unusable_folder_error(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            said = one_line(error)
            raise UserError(f"the results folder {self._folder} cannot be used: {said}") from error


def _read_run(path):
    contents = read_json(path)
    if "checkpoint_sha256" not in contents:
        raise UserError(f"{path} is not from an evaluate.py run; choose another --workdir")
    return contents


def _at_same_place(earlier, images):
    """Returns the records of images that have the same place in both lists of images.

    The files of the report are named by place. Without targets there is no report.
    """
    if not earlier["methods"]:
        return earlier
    same = {name for name, before in zip(images, earlier["images"], strict=False) if name == before}

    def of_same(records):
        return {name: record for name, record in records.items() if name in same}

    methods = [{**method, "images": of_same(method["images"])} for method in earlier["methods"]]
    return {"methods": methods, "restored": of_same(earlier["restored"])}


def _check_same_run(earlier, fresh, folder):
    before, now = earlier["config"], fresh["config"]
    differences = [
        f"{key}: {before.get(key)!r} there, {now.get(key)!r} here"
        for key in _KEYS_OF_RESULTS
        if before.get(key) != now.get(key)
    ]
    measured, wanted = (", ".join(contents["definitions"]) for contents in (earlier, fresh))
    if measured != wanted:  # "all" depends on which weights are on disk
        differences.append(f"measured: {measured} there, {wanted} here")
    if earlier["checkpoint_sha256"] != fresh["checkpoint_sha256"]:
        differences.append("other weights")
    if differences:
        raise UserError(
            f"{folder} holds results of another run ({', '.join(differences)}); choose another "
            "--workdir"
        )
