"""Run a model over a data set: restored PNGs, metrics.json, tables, a report.

What each figure means:

- "input" compares the blurred image (with two views their mean) with the target, "output" the float
  output clipped to [0, 1], "saved" the PNG as it was written (rounded; the released code cuts off).
- `vitdeblur score` of the saved PNGs gives the figures of "saved".
- seconds are those of the restoration alone; the first image's include compilation.
"""

import dataclasses
import os
import time
from pathlib import Path

import flax.linen as nn
import ml_collections
import numpy as np

from vitdeblur_jax.checkpoints.load_save import BUNDLED_NOTE, load_pretrained
from vitdeblur_jax.checkpoints.pretrained import Pretrained, digest, on_local_devices
from vitdeblur_jax.data.image_io import DecodedImage, as_8_bits, left_out, write_image
from vitdeblur_jax.data.layouts import LAYOUTS, find_pairs
from vitdeblur_jax.data.pairs import check_sizes, describe, read_pair
from vitdeblur_jax.distributed.processes import (
    first_before_others,
    gather,
    is_first,
    place,
    split_across_processes,
    together,
)
from vitdeblur_jax.evaluation.report import add_picture
from vitdeblur_jax.evaluation.results import Results
from vitdeblur_jax.evaluation.scoring import load_metrics, parse_metrics, target_as_deep
from vitdeblur_jax.evaluation.subsets import find_subsets
from vitdeblur_jax.inference.deblurring import deblur
from vitdeblur_jax.inference.pixels import as_dtype, as_float
from vitdeblur_jax.inference.restoration import check_options, count_tiles, tell_of_tiling
from vitdeblur_jax.models.layers.views import mean_of_views
from vitdeblur_jax.models.network import tiling_of, with_numerics
from vitdeblur_jax.models.networks import NUMERICS_RULES
from vitdeblur_jax.utils import signals
from vitdeblur_jax.utils.config_checks import check_paths, check_values, choice, integer, text
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.output import results_go_to_terminal, show, tell
from vitdeblur_jax.utils.progress import Progress

RULES = {
    "checkpoint": text(),
    "network": text(),
    "data_dir": text(),
    "layout": choice(*LAYOUTS),
    "split": text(),
    "bit_depth": choice(8, 16),
    "stride": integer(0),
    "batch_size": integer(0, 2**16),
    "dtype": NUMERICS_RULES["dtype"],
    "precision": NUMERICS_RULES["precision"],
    "metrics": text(),
    "metric_weights": text(),
}


def evaluate(
    config: ml_collections.ConfigDict, workdir: str | Path, network: nn.Module | None = None
) -> None:
    """Restores every image of a data set into `workdir` and measures what can be measured.

    Started again after an interruption, it goes on with the images that are not done. Several
    processes share the images out; `workdir` has to be on a disk that they share.

    Args:
      config: as `configs/evaluate.py` describes it.
      workdir: takes `restored/NAME.png`, `metrics.json` and, where there are targets, the tables
        and `report.html`.

      network: the module that `config.checkpoint` holds the variables of, if it is not of the
        package.

    Raises:
      UserError: the config, the checkpoint, the data or the folder is not as it should be.
    """
    signals.listen_again()
    with together():
        _check(config)
        pairs = find_pairs(config.data_dir, config.layout, config.split)
        check_sizes(pairs)
        pretrained = _load(config, network)
        check_options(pretrained.model, config.stride or None, config.batch_size or None)
        # Results made with another stride are other results: record the one that is used.
        stride = config.stride or getattr(tiling_of(pretrained.model), "stride", 0)
        # A relative path would not tell, at the next start, which folder it was.
        data_dir = os.path.abspath(config.data_dir)
        config = ml_collections.ConfigDict({**config, "stride": stride, "data_dir": data_dir})
        measure, metrics, notes = load_metrics(
            parse_metrics(config.metrics),
            Path(config.metric_weights) if config.metric_weights else None,
        )
        subsets = find_subsets(pairs, config.layout, config.split)
    if is_first() and (paired := describe(pairs)):
        tell(paired)
    if is_first() and config.layout == "images" and (line := left_out(config.data_dir)):
        tell(line)
    if is_first():
        tell_of_tiling(pretrained.model, config.stride)
    names, folder = [pair.name for pair in pairs], Path(workdir)
    checkpoint = digest(pretrained.variables)
    results = first_before_others(
        lambda: Results.open(folder, config, checkpoint, names, metrics, place()[0])
    )
    waiting = [(number, pair) for number, pair in enumerate(pairs) if not results.has(pair.name)]
    if len(waiting) < len(pairs) and is_first():
        tell(f"{len(pairs) - len(waiting)} of {len(pairs)} images are done already")
    for number, pair in split_across_processes(waiting):
        tell(f"{number + 1} of {len(pairs)}: {pair.name}")
        image, target = (_at_depth(pixels, config.bit_depth) for pixels in read_pair(pair))
        restored, seconds = _restore(pretrained, image, config)
        saved = as_dtype(restored, image.dtype)
        write_image(DecodedImage(saved), results.image_path(pair.name))
        figures = {}
        if target is not None:
            target = target_as_deep(target, saved)
            blurred = mean_of_views(as_float(image))
            compared = {"input": blurred, "output": restored, "saved": as_float(saved)}
            figures = {name: measure(x, as_float(target)) for name, x in compared.items()}
            _add_pictures(folder, number, compared, target)
        results.add(pair, image, seconds, figures)
    gather(None)  # all have ended their work
    if is_first():
        written = results.finish(subsets, notes)
        tell(f"written: {written}")
        show(*results.table(results_go_to_terminal()).splitlines(), styled=True)


def _check(config):
    check_paths(config, RULES)
    check_values(config, RULES, "--config.")
    if not config.data_dir:
        raise UserError("--config.data_dir is missing")


def _load(config, network) -> Pretrained:
    if network is None:
        network = config.network or None
    elif config.network:
        raise UserError("give evaluate a network, or --config.network, not both")
    pretrained = on_local_devices(load_pretrained(config.checkpoint or None, network))
    if not config.checkpoint and is_first():
        tell(f"checkpoint: {BUNDLED_NOTE}")
    model = with_numerics(pretrained.model, dtype=config.dtype, precision=config.precision)
    return dataclasses.replace(pretrained, model=model)


def _at_depth(pixels, bits):
    """Returns 16-bit pixels as 8 bits (the published protocol) unless 16 are asked for."""
    return pixels if pixels is None or bits == 16 else as_8_bits(pixels)


def _restore(pretrained, image, config):
    """Returns the restored image, float32 in [0, 1], and the seconds it took."""
    total = count_tiles(pretrained.model, *image.shape[:2], config.stride or None)
    started = time.perf_counter()
    with Progress(total, "tiles") as progress:
        restored = deblur(
            as_float(image),
            pretrained,
            stride=config.stride or None,
            batch_size=config.batch_size or None,
            on_tiles=progress.advance,
        )
    return restored.clip(0, 1), time.perf_counter() - started


def _add_pictures(folder, number, compared, target):
    sharp = as_8_bits(target)
    add_picture(folder, number, 0, sharp, None)
    for order, image in enumerate(compared.values(), 1):
        add_picture(folder, number, order, as_dtype(image, np.dtype(np.uint8)), sharp)
