"""Run a model over a data set: restored PNGs, metrics.json, a table.

What each figure means:

- "input" compares the blurred image (with two views their mean) with the target, "output" the float
  output clipped to [0, 1], "saved" the PNG as it was written (rounded; the released code cuts off).
- PSNR, SSIM and MAE are those of `vitdeblur_jax.metrics`, in float64; means are over images.
  What is not finite is null, for JSON has no infinity: the PSNR of identical images, its mean.
- seconds are those of the restoration alone; the first image's include compilation.
"""

import dataclasses
import time
from pathlib import Path

import ml_collections
import numpy as np

from vitdeblur_jax.checkpoints import (
    BUNDLED_NOTE,
    Pretrained,
    digest,
    load_pretrained,
    on_local_devices,
)
from vitdeblur_jax.data.image_writing import write_photograph
from vitdeblur_jax.data.images import Photograph, as_8_bits
from vitdeblur_jax.data.layouts import find_pairs, read_pair
from vitdeblur_jax.deblurring import deblur
from vitdeblur_jax.errors import UserError
from vitdeblur_jax.evaluation.results import Results
from vitdeblur_jax.metrics import measure
from vitdeblur_jax.models.configuration import named_configuration
from vitdeblur_jax.models.vitdeblur import mean_of_views
from vitdeblur_jax.progress import Progress
from vitdeblur_jax.restoration import as_dtype, as_float, check_options, count_windows


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
    check_options(pretrained.model, config.stride or None, config.batch_size or None)
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
        compared = {"input": mean_of_views(as_float(image)), "output": restored, "saved": saved}
        results.add(pair, image, seconds, _compare(compared, target))
    print(results.table(names))
    print(f"written: {results.path}")


def _check(config):
    if not config.data_dir:
        raise UserError("--config.data_dir is missing")
    if config.bit_depth not in (8, 16):
        raise UserError(f"--config.bit_depth is {config.bit_depth}; it is 8 or 16")
    if config.batch_size < 0:
        raise UserError(f"--config.batch_size is {config.batch_size}; it is 0 (default) or more")


def _load(config) -> Pretrained:
    architecture = named_configuration(config.model) if config.model else None
    pretrained = on_local_devices(load_pretrained(config.checkpoint or None, architecture))
    if not config.checkpoint:
        print(f"checkpoint: {BUNDLED_NOTE}")
    model = dataclasses.replace(pretrained.model, dtype=config.dtype, precision=config.precision)
    return dataclasses.replace(pretrained, model=model)


def _at_depth(pixels, bits):
    """Returns 16-bit pixels as 8 bits (the published protocol) unless 16 are asked for."""
    return pixels if pixels is None or bits == 16 else as_8_bits(pixels)


def _restore(pretrained, image, config):
    """Returns the restored image, float32 in [0, 1], and the seconds it took."""
    total = count_windows(pretrained.model, *image.shape[:2], config.stride or None)
    started = time.perf_counter()
    with Progress(total, "windows") as progress:
        restored = deblur(
            as_float(image),
            pretrained,
            stride=config.stride or None,
            batch_size=config.batch_size or None,
            on_windows=progress.advance,
        )
    return restored.clip(0, 1), time.perf_counter() - started


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
