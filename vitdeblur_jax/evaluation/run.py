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

import os
import time

import flax.linen as nn
import ml_collections
import numpy as np

from vitdeblur_jax.checkpoints.pretrained import digest
from vitdeblur_jax.data.image_io import DecodedImage, as_8_bits, left_out, write_image
from vitdeblur_jax.data.pairs import describe, read_pair
from vitdeblur_jax.distributed.processes import (
    first_before_others,
    gather,
    is_first,
    place,
    split_across_processes,
    together,
)
from vitdeblur_jax.evaluation.alignment import target_as_deep
from vitdeblur_jax.evaluation.measure import measuring_threads
from vitdeblur_jax.evaluation.pipeline import Duration, run_pipeline
from vitdeblur_jax.evaluation.preparation import prepare
from vitdeblur_jax.evaluation.profiles import OURS
from vitdeblur_jax.evaluation.report import add_image
from vitdeblur_jax.evaluation.results_folder import Results
from vitdeblur_jax.inference.chosen_tiling import count_tiles, tell_of_tiling, tiling_for
from vitdeblur_jax.inference.deblurring import deblur
from vitdeblur_jax.inference.pixels import as_dtype, as_float
from vitdeblur_jax.models.layers.views import mean_of_views
from vitdeblur_jax.models.network import tiling_of
from vitdeblur_jax.models.tilings import WholeImage
from vitdeblur_jax.utils import signals
from vitdeblur_jax.utils.buckets import reachable
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.output import results_go_to_terminal, show, tell
from vitdeblur_jax.utils.progress import Progress


def evaluate(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike[str],
    network: nn.Module | None = None,
) -> None:
    """Restores every image of a data set into `workdir` and computes the metrics.

    A second call resumes an interrupted run. Several processes split the images; they need a
    shared disk for `workdir`.

    Args:
      config: See `configs/evaluate.py`.
      workdir: Folder for `restored/NAME.png`, `metrics.json` and, if there are targets, the tables
        and `report.html`; on disk or in a bucket.
      network: The module of `config.checkpoint`, if it is not one of the package.

    Raises:
      UserError: The config, the checkpoint, the data or the folder is invalid.
    """
    signals.listen_again()
    with together():
        folder = reachable(workdir)
        run = prepare(config, network)
    if is_first():
        _tell_of_data(run)
    digest_of_weights = digest(run.pretrained.variables)
    names = [pair.name for pair in run.pairs]
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
        tile = _approximate_tile(run, item[1], pixels[0])
        return *_restore(run.pretrained, pixels[0], run.config), tile

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


def _approximate_tile(run, pair, image) -> int | None:
    """Returns the side of the tiles of a network that takes the whole image; None without tiles.

    Raises:
      UserError: There is too little memory for the whole image that a published evaluation takes.
    """
    network = run.pretrained.model
    tiling = tiling_for(network, *image.shape[:2], run.config.tile or None)
    if not isinstance(tiling_of(network), WholeImage) or isinstance(tiling, WholeImage):
        return None
    if run.profile is not OURS:
        raise UserError(
            f"{pair.source[0]} does not fit into memory as a whole, and tiles are not what the "
            f"profile {run.profile.system} evaluates; leave the profile out"
        )
    return tiling.tile


def _tell_of_waiting(duration):
    if duration.waited < duration.seconds:
        share = f"{100 * duration.waited / duration.seconds:.0f} % of {duration.seconds:.1f} s"
        tell(f"waited for reading, measuring and writing: {share}")


def _finish_pair(run, item, pixels, restored, results, folder):
    """Writes, measures and records one pair."""
    (number, pair), (image, target), (output, seconds, tile) = item, pixels, restored
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
    results.add(pair, image, seconds, figures, tile)


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
