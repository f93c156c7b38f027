"""Run a model over a data set: restored PNGs, metrics.json, a table.

What each figure means:

- "input" compares the blurred image (with two views their mean) with the target, "output" the float
  output clipped to [0, 1], "saved" the PNG as it was written (rounded; the released code cuts off).
- PSNR, SSIM and MAE are those of `vitdeblur_jax.metrics`, in float64; means are over images.
  What is not finite is null, for JSON has no infinity: the PSNR of identical images, its mean.
- seconds are those of the restoration alone; the first image's include compilation.
"""

import dataclasses
import json
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import jax
import ml_collections
import numpy as np

from vitdeblur_jax.checkpoints import Pretrained, digest, load_pretrained
from vitdeblur_jax.data.image_writing import write_photograph
from vitdeblur_jax.data.images import Photograph
from vitdeblur_jax.data.layouts import Pair, find_pairs, read_pair
from vitdeblur_jax.deblurring import deblur
from vitdeblur_jax.errors import UserError
from vitdeblur_jax.evaluation.table import format_number, format_table
from vitdeblur_jax.files import write_text
from vitdeblur_jax.metrics import (
    mean_absolute_error,
    peak_signal_noise_ratio,
    structural_similarity,
)
from vitdeblur_jax.models import ViTDeblur
from vitdeblur_jax.models.configuration import named_configuration
from vitdeblur_jax.progress import Progress
from vitdeblur_jax.restoration import as_dtype, as_float, check_stride, count_windows

METRICS = {
    "psnr": (
        peak_signal_noise_ratio,
        "PSNR in dB, data range 1, MSE over all pixels and channels; null: infinite",
        3,
    ),
    "ssim": (
        structural_similarity,
        "SSIM, 7 x 7 uniform window, data range 1, channels averaged",
        4,
    ),
    "mae": (mean_absolute_error, "mean absolute error, data range 1", 4),
}
COMPARED = ("input", "output", "saved")


def evaluate(config: ml_collections.ConfigDict, workdir: str | Path) -> None:
    """Restores every image of a data set into `workdir` and measures what can be measured.

    Started again after an interruption, it goes on with the images that are not done.

    Args:
      config: as `configs/evaluate.py` describes it.
      workdir: takes `restored/NAME.png` and `metrics.json`.

    Raises:
      UserError: the config, the checkpoint, the data or the folder is not as it should be.
    """
    _check(config)
    pairs = find_pairs(config.data_dir, config.layout, config.split)
    pretrained = _load(config)
    check_stride(pretrained.model, config.stride)
    names = [pair.name for pair in pairs]
    results = Results.open(Path(workdir), config, digest(pretrained.variables), names)
    waiting = [pair for pair in pairs if not results.has(pair.name)]
    if len(waiting) < len(pairs):
        print(f"{len(pairs) - len(waiting)} of {len(pairs)} images are done already")
    for number, pair in enumerate(waiting, len(pairs) - len(waiting) + 1):
        print(f"{number} of {len(pairs)}: {pair.name}", flush=True)
        image, target = (_at_depth(pixels, config.bit_depth) for pixels in read_pair(pair))
        restored, seconds = _restore(pretrained, image, config)
        saved = as_dtype(restored, image.dtype)
        write_photograph(Photograph(saved), results.image_path(pair.name))
        compared = {"input": _mean_of_views(as_float(image)), "output": restored, "saved": saved}
        results.add(pair, image, seconds, _compare(compared, target))
    print(results.table(names))
    print(f"written: {results.path}")


def _check(config):
    for key in ("checkpoint", "data_dir"):
        if not config[key]:
            raise UserError(f"--config.{key} is missing")
    if config.bit_depth not in (8, 16):
        raise UserError(f"--config.bit_depth is {config.bit_depth}; it is 8 or 16")
    if config.batch_size < 0:
        raise UserError(f"--config.batch_size is {config.batch_size}; it is 0 (default) or more")


def _load(config) -> Pretrained:
    architecture = named_configuration(config.model) if config.model else None
    pretrained = load_pretrained(config.checkpoint, architecture)
    model_config = pretrained.config.copy_and_resolve_references()
    model_config.update(dtype=config.dtype, precision=config.precision)
    model = ViTDeblur(**model_config)
    return dataclasses.replace(pretrained, model=model, config=model_config)


def _at_depth(pixels, bits):
    """Returns 16-bit pixels as 8 bits (the published protocol) unless 16 are asked for."""
    if pixels is None or pixels.dtype == np.uint8 or bits == 16:
        return pixels
    return (pixels >> 8).astype(np.uint8)


def _restore(pretrained, image, config):
    """Returns the restored image, float32 in [0, 1], and the seconds it took."""
    total = count_windows(pretrained.model, *image.shape[:2], config.stride)
    started = time.perf_counter()
    with Progress(total, "windows") as progress:
        restored = deblur(
            as_float(image),
            pretrained,
            stride=config.stride,
            batch_size=config.batch_size or None,
            on_windows=progress.advance,
        )
    return restored.clip(0, 1), time.perf_counter() - started


def _mean_of_views(image):
    return np.mean(np.split(image, image.shape[-1] // 3, axis=-1), axis=0)


def _compare(compared, target) -> dict[str, dict[str, float | None]]:
    if target is None:
        return {}
    reference = as_float(target)
    return {
        name: {key: _or_none(value) for key, value in measure(as_float(image), reference).items()}
        for name, image in compared.items()
    }


def _or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _mean(values) -> float | None:
    return None if None in values else float(np.mean(values))


def measure(image: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Returns the metrics of float images in [0, 1], computed in float64."""
    with jax.enable_x64(True):
        arrays = [jax.numpy.asarray(array, np.float64) for array in (image, reference)]
        return {name: float(metric(*arrays)) for name, (metric, _, _) in METRICS.items()}


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
            "definitions": {name: text for name, (_, text, _) in METRICS.items()},
            "versions": _versions(),
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


def _figures(record):
    figures = [
        format_number(record[compared][metric], digits)
        for compared in COMPARED
        for metric, (_, _, digits) in METRICS.items()
    ]
    return (*figures, format_number(record["seconds"], 1))


def _size(record):
    return record["width"], record["height"], format_number(record["seconds"], 1)


def _check_same_run(earlier, fresh, folder):
    for key in ("config", "checkpoint_sha256"):
        if earlier[key] != json.loads(json.dumps(fresh[key])):
            difference = "of other weights"
            if key == "config":
                difference = _difference(earlier[key], fresh[key])
            raise UserError(
                f"{folder} holds results of another run ({difference}); choose another --workdir"
            )


def _difference(earlier, now):
    keys = [key for key in {**earlier, **now} if earlier.get(key) != now.get(key)]
    return ", ".join(f"{key}: {earlier.get(key)!r} there, {now.get(key)!r} here" for key in keys)


def _versions():
    packages = ("vitdeblur_jax", "jax", "jaxlib", "flax", "numpy", "pillow")
    versions = {package: version(package) for package in packages}
    device = jax.devices()[0].device_kind
    return {**versions, "python": platform.python_version(), "device": device}
