"""What lies in the folder of an evaluation: restored images and metrics.json."""

import json
from collections.abc import Sequence
from pathlib import Path

import ml_collections
import numpy as np

from vitdeblur_jax.data.layouts import Pair
from vitdeblur_jax.errors import UserError
from vitdeblur_jax.files import write_text
from vitdeblur_jax.metrics import METRICS
from vitdeblur_jax.table import format_number, format_table
from vitdeblur_jax.versions import versions

COMPARED = ("input", "output", "saved")
# What another value of would give other numbers; the weights are compared by their digest.
_NUMBERS_DEPEND_ON = ("data_dir", "layout", "split", "bit_depth", "stride", "dtype", "precision")


class Results:
    """What lies in the folder of an evaluation; saved after each image."""

    def __init__(self, folder: Path, contents: dict):
        self.path = folder / "metrics.json"
        self._folder, self._contents = folder, contents

    @classmethod
    def open(
        cls,
        folder: Path,
        config: ml_collections.ConfigDict,
        checkpoint_digest: str,
        names: Sequence[str],
    ):
        """Takes up the results in `folder`, those of images in `names`, or begins new ones.

        Raises:
          UserError: results of another config or checkpoint lie there, or it cannot be written.
        """
        fresh = {
            "config": config.to_dict(),
            "checkpoint_sha256": checkpoint_digest,
            "definitions": {name: metric.definition for name, metric in METRICS.items()},
            "versions": versions(),
            "mean": {},
            "images": {},
        }
        results = cls(folder, fresh)
        try:
            (folder / "restored").mkdir(parents=True, exist_ok=True)
            if results.path.exists():
                earlier = json.loads(results.path.read_text())
                if earlier["images"]:
                    _check_same_run(earlier, fresh, folder)
                fresh["images"] = {n: r for n, r in earlier["images"].items() if n in names}
                fresh["mean"] = results._means()
        except UserError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"the results folder {folder} cannot be used: {error}") from error
        results._save()
        return results

    def image_path(self, name: str) -> Path:
        """Returns where the restored image of that name lies."""
        return self._folder / "restored" / f"{name}.png"

    def has(self, name: str) -> bool:
        """Returns whether that image has been restored and measured."""
        return name in self._contents["images"] and self.image_path(name).exists()

    def add(self, pair: Pair, image: np.ndarray, seconds: float, metrics: dict) -> None:
        """Records an image and saves all records."""
        self._contents["images"][pair.name] = {
            "source": [str(path) for path in pair.source],
            "target": str(pair.target) if pair.target else None,
            "width": image.shape[1],
            "height": image.shape[0],
            "seconds": round(seconds, 3),
            **metrics,
        }
        self._contents["mean"] = self._means()
        self._save()

    def table(self, names: list[str]) -> str:
        """Returns the table of all images and their mean."""
        images = {name: self._contents["images"][name] for name in names}
        if not self._contents["mean"]:
            header = ("image", "width", "height", "seconds")
            return format_table(header, [(n, *map(str, _size(r))) for n, r in images.items()])
        header = ("image", *(f"{c} {m}" for c in COMPARED for m in METRICS), "seconds")
        rows = [(name, *_figures(record)) for name, record in images.items()]
        return format_table(header, [*rows, ("mean", *_figures(self._means()))])

    def _means(self) -> dict:
        records = list(self._contents["images"].values())
        if not any("output" in record for record in records):
            return {}
        means = {
            compared: {
                metric: _mean([record[compared][metric] for record in records])
                for metric in METRICS
            }
            for compared in COMPARED
        }
        return {**means, "seconds": _mean([record["seconds"] for record in records])}

    def _save(self) -> None:
        write_text(self.path, json.dumps(self._contents, indent=2, allow_nan=False) + "\n")


def _mean(values) -> float | None:
    return None if None in values else float(np.mean(values))


def _figures(record):
    figures = [
        format_number(record[compared][name], metric.digits)
        for compared in COMPARED
        for name, metric in METRICS.items()
    ]
    return (*figures, format_number(record["seconds"], 1))


def _size(record):
    return record["width"], record["height"], format_number(record["seconds"], 1)


def _check_same_run(earlier, fresh, folder):
    before, now = earlier["config"], fresh["config"]
    differences = [
        f"{key}: {before.get(key)!r} there, {now[key]!r} here"
        for key in _NUMBERS_DEPEND_ON
        if before.get(key) != now[key]
    ]
    if earlier["checkpoint_sha256"] != fresh["checkpoint_sha256"]:
        differences.append("other weights")
    if differences:
        raise UserError(
            f"{folder} holds results of another run ({', '.join(differences)}); choose another "
            "--workdir"
        )
