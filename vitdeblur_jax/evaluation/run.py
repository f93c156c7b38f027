"""Runs a network over a data set: restored PNGs, metrics.json, tables, a report.

What each figure means:

- "input" compares the blurred image (the mean of several views) with the target, "output" the float
  output clipped to [0, 1], "saved" the rounded PNG.
- `vitdeblur score` of the saved PNGs, with the same profile, gives the figures of "saved".
- With a profile, images are read, cropped or padded, measured and saved as in the published code of
  a system; see `vitdeblur_jax.evaluation.profiles`.
- Seconds are those of the restoration alone; the first image's include compilation. On a CPU, the
  images that are measured and written meanwhile take part of its cores.
"""

import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import ml_collections
import numpy as np

from vitdeblur_jax.checkpoints.load_save import BUNDLED_NOTE, load_pretrained
from vitdeblur_jax.checkpoints.pretrained import Pretrained, digest, on_local_devices
from vitdeblur_jax.data.image_io import DecodedImage, as_8_bits, left_out, size_of, write_image
from vitdeblur_jax.data.layouts import LAYOUTS, find_pairs
from vitdeblur_jax.data.pairs import Pair, check_sizes, describe, read_pair
from vitdeblur_jax.distributed.processes import (
    first_before_others,
    gather,
    is_first,
    place,
    split_across_processes,
    together,
)
from vitdeblur_jax.evaluation.alignment import target_as_deep
from vitdeblur_jax.evaluation.measure import Measure, load_metrics, measuring_threads
from vitdeblur_jax.evaluation.pipeline import Duration, run_pipeline
from vitdeblur_jax.evaluation.profiles import PUBLISHED, Profile, find_protocol, profile_notes
from vitdeblur_jax.evaluation.report import add_image
from vitdeblur_jax.evaluation.results_folder import Results
from vitdeblur_jax.evaluation.score import parse_metrics
from vitdeblur_jax.evaluation.subsets import find_subsets
from vitdeblur_jax.inference.chosen_tiling import check_options, count_tiles, tell_of_tiling
from vitdeblur_jax.inference.deblurring import deblur
from vitdeblur_jax.inference.pixels import as_dtype, as_float
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
    "profile": choice("", *PUBLISHED),
    "bit_depth": choice(0, 8, 16),
    "stride": integer(0),
    "tile": integer(0),
    "batch_size": integer(0, 2**16),
    "dtype": NUMERICS_RULES["dtype"],
    "precision": NUMERICS_RULES["precision"],
    "metrics": text(),
    "metric_weights": text(),
}


def evaluate(
    config: ml_collections.ConfigDict, workdir: str | Path, network: nn.Module | None = None
) -> None:
    """Restores every image of a data set into `workdir` and computes the metrics.

    A second call resumes an interrupted run. Several processes split the images; they need a
    shared disk for `workdir`.

    Args:
      config: See `configs/evaluate.py`.
      workdir: Folder for `restored/NAME.png`, `metrics.json` and, if there are targets, the tables
        and `report.html`.
      network: The module of `config.checkpoint`, if it is not one of the package.

    Raises:
      UserError: The config, the checkpoint, the data or the folder is invalid.
    """
    signals.listen_again()
    with together():
        run = _prepare(config, network)
    if is_first():
        _tell_of_data(run)
    digest_of_weights = digest(run.pretrained.variables)
    names, folder = [pair.name for pair in run.pairs], Path(workdir)
    results = first_before_others(
        lambda: Results.open(
            folder, run.config, digest_of_weights, names, run.metrics, part=place()[0]
        )
    )
    waiting = [(n, pair) for n, pair in enumerate(run.pairs) if not results.has(pair.name)]
    if len(waiting) < len(run.pairs) and is_first():
        tell(f"{len(run.pairs) - len(waiting)} of {len(run.pairs)} images are done already")
    duration = _evaluate_pairs(run, split_across_processes(waiting), results, folder)
    gather(None)  # waits for the other processes
    if is_first():
        _tell_of_waiting(duration)
        written = results.finish(run.subsets, run.notes)
        tell(f"written: {written}")
        show(*results.table(results_go_to_terminal()).splitlines(), styled=True)


class _Run(NamedTuple):
    """All that is fixed before the first image."""

    config: ml_collections.ConfigDict
    profile: Profile
    pairs: Sequence[Pair]
    pretrained: Pretrained
    measure: Measure
    metrics: list[str]
    notes: list[str]
    subsets: dict[str, list[str]]


def _prepare(config, network) -> _Run:
    """Checks everything that can be checked before the first image is restored."""
    _check(config)
    pairs = find_pairs(config.data_dir, config.layout, config.split)
    check_sizes(pairs)
    pretrained = _load(config, network)
    check_options(
        pretrained.model, config.stride or None, config.batch_size or None, config.tile or None
    )
    profile = find_protocol(config.profile)
    config = _resolved(config, profile, pairs, pretrained.model)
    weights_folder = Path(config.metric_weights) if config.metric_weights else None
    names = parse_metrics(config.metrics)
    measure, metrics, notes = load_metrics(names, weights_folder, profile.protocol)
    notes = [*notes, *profile_notes(profile, len(pairs[0].source))]
    subsets = find_subsets(pairs, config.layout, config.split)
    return _Run(config, profile, pairs, pretrained, measure, metrics, notes, subsets)


def _resolved(config, profile, pairs, network) -> ml_collections.ConfigDict:
    """Returns the config with what decides the results: no defaults, an absolute path.

    Raises:
      UserError: The profile does not take the images, the bit depth or the network.
    """
    protocol = profile.protocol
    protocol.check_network(profile.system, network)
    bits = protocol.bits(len(pairs[0].source))
    if config.bit_depth not in (0, *bits):
        raise UserError(
            f"the profile {profile.system} reads {' or '.join(map(str, bits))} bits, and "
            f"--config.bit_depth is {config.bit_depth}; leave it out"
        )
    for path in [pair.source[0] for pair in pairs]:
        if (size := size_of(path)) is not None:
            profile.frame.check(size[1], size[0], profile.system, str(path))
    found = {
        "bit_depth": config.bit_depth or bits[0],
        "stride": config.stride or getattr(tiling_of(network), "stride", 0),
        "metrics": config.metrics or ",".join(protocol.metrics),
        "data_dir": os.path.abspath(config.data_dir),
    }
    return ml_collections.ConfigDict({**config, **found})


def _tell_of_data(run):
    if paired := describe(run.pairs):
        tell(paired)
    if run.config.layout == "images" and (line := left_out(run.config.data_dir)):
        tell(line)
    tell_of_tiling(run.pretrained.model, run.config.stride or None, run.config.tile or None)


def _evaluate_pairs(run, numbered_pairs, results, folder) -> Duration:
    """Restores, measures and records pairs, each with its number."""

    def read(item):
        return _read(run, item[1])

    def restore(item, pixels):
        tell(f"{item[0] + 1} of {len(run.pairs)}: {item[1].name}")
        return _restore(run.pretrained, pixels[0], run.config)

    def finish(item, pixels, restored):
        _finish_pair(run, item, pixels, restored, results, folder)

    return run_pipeline(numbered_pairs, read, restore, finish, measuring_threads())


def _read(run, pair):
    """Returns source and target at the bit depth and with the frame of the protocol."""
    frame = run.profile.frame
    image, target = read_pair(pair)
    frame.check(*image.shape[:2], run.profile.system, str(pair.source[0]))
    pair = [None if pixels is None else frame.fit(pixels) for pixels in (image, target)]
    if run.config.bit_depth == 16:
        return pair
    return [None if pixels is None else as_8_bits(pixels) for pixels in pair]


def _tell_of_waiting(duration):
    if duration.waited < duration.seconds:
        share = f"{100 * duration.waited / duration.seconds:.0f} % of {duration.seconds:.1f} s"
        tell(f"waited for reading, measuring and writing: {share}")


def _finish_pair(run, item, pixels, restored, results, folder):
    """Writes, measures and records one pair."""
    (number, pair), (image, target), (output, seconds) = item, pixels, restored
    protocol = run.profile.protocol
    saved = protocol.saved(output, image.dtype)
    write_image(DecodedImage(saved), results.image_path(pair.name))
    figures = {}
    if target is not None:
        target = target_as_deep(target, saved, protocol.bits(len(pair.source)))
        blurred = mean_of_views(as_float(image))
        compared = {"input": blurred, "output": output, "saved": as_float(saved)}
        figures = {name: run.measure(x, as_float(target)) for name, x in compared.items()}
        _add_images(folder, number, compared, target)
    results.add(pair, image, seconds, figures)


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
    before = getattr(pretrained.model, "dtype", config.dtype)
    if is_first() and np.dtype(before) != np.dtype(config.dtype):
        tell(f"note: computed in {config.dtype}, not in the checkpoint's {np.dtype(before).name}")
    return dataclasses.replace(pretrained, model=model)


def _restore(pretrained, image, config):
    """Returns the restored image, float32, not clipped, and the seconds it took."""
    tiling = {"stride": config.stride or None, "tile": config.tile or None}
    total = count_tiles(pretrained.model, *image.shape[:2], **tiling)
    started = time.perf_counter()
    with Progress(total, "tiles") as progress:
        restored = deblur(
            as_float(image),
            pretrained,
            **tiling,
            batch_size=config.batch_size or None,
            on_tiles=progress.advance,
        )
    return restored, time.perf_counter() - started


def _add_images(folder, number, compared, target):
    sharp = as_8_bits(target)
    add_image(folder, number, 0, sharp, None)
    for order, image in enumerate(compared.values(), 1):
        add_image(folder, number, order, as_dtype(image, np.dtype(np.uint8)), sharp)
