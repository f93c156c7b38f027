"""Restores image files, and keeps the metadata that their formats can hold."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import flax.linen as nn
import numpy as np

from vitdeblur_jax.checkpoints.load_save import DEFAULT_NOTE, load_pretrained
from vitdeblur_jax.checkpoints.pretrained import Pretrained, on_local_devices
from vitdeblur_jax.data.image_io import DecodedImage, Samples, read_image, what_is_lost, write_image
from vitdeblur_jax.distributed.processes import gather, is_first, split_across_processes, together
from vitdeblur_jax.inference.chosen_tiling import check_options, count_tiles, tell_of_tiling
from vitdeblur_jax.inference.deblurring import blend, check_strength, deblur, restored_ensemble
from vitdeblur_jax.inference.pixels import as_dtype, as_float
from vitdeblur_jax.inference.restore_plan import (
    STANDARD,
    Options,
    Task,
    is_done,
    make_folders,
    plan,
    tell_left_out,
)
from vitdeblur_jax.inference.self_ensemble import symmetries
from vitdeblur_jax.models.network import views_of
from vitdeblur_jax.utils.errors import ExistsError, UserError, one_line
from vitdeblur_jax.utils.output import read_input, tell, write_result
from vitdeblur_jax.utils.progress import Progress

# White in a map is this share of the range of values. It is fixed, so that maps can be compared.
WHITE_CHANGE = 32 / 255
WHITE_UNCERTAINTY = 8 / 255


def restore_files(
    sources: Sequence[str],
    output: str | None,
    checkpoint: str | None,
    options: Options,
    network: nn.Module | None = None,
) -> int:
    """Restores image files. Reports progress, and what a format cannot keep, on standard error.

    Several processes split the images; they must see the same disk.

    Args:
      sources: Files, folders (their images), or "-".
      output: A file for one image, a folder, "-", or None for `NAME_restored` beside each image.
      checkpoint: As `load_pretrained` takes it; None for the weights that come with the package.
      options: How to restore, and what to write.
      network: The network of the checkpoint, as `load_pretrained` takes it.

    Returns:
      The number of images that could not be restored. Each has an error line.

    Raises:
      UserError: No image can be restored: a wrong option, file or checkpoint.
    """
    with together():  # all processes plan before the first one writes a result
        check_strength(options.strength)
        tasks = plan(sources, output, options)
        waiting = [
            (number, task)
            for number, task in enumerate(tasks, 1)
            if not (options.skip_existing and is_done(task, options))
        ]
        numerics = {"dtype": options.dtype, "precision": options.precision}
        pretrained = on_local_devices(load_pretrained(checkpoint, network, **numerics))
        check_one_view(pretrained)
        check_options(pretrained.model, options.stride, options.batch_size, options.tile)
        make_folders(tasks, output)
    if is_first():
        tell_left_out(sources, options.recursive)
        if len(waiting) < len(tasks):
            tell(f"{len(tasks) - len(waiting)} of {len(tasks)} are done already")
        if checkpoint is None:
            tell(DEFAULT_NOTE)
        tell_of_tiling(pretrained.model, options.stride, options.tile)
    outcomes = [
        _try_task(task, f"{number} of {len(tasks)}", pretrained, options)
        for number, task in split_across_processes(waiting)
    ]
    failed = sum(gather(outcomes.count(False)))
    if failed and len(waiting) > 1 and is_first():
        tell(f"{failed} of {len(waiting)} could not be restored; see the errors above")
    return failed


def _try_task(task: Task, place: str, pretrained: Pretrained, options: Options) -> bool:
    """Restores one file; returns False, after an error line, if that fails."""
    if options.skip_existing and is_done(task, options):  # another process has written it
        tell(f"{task.destination} is done already")
        return True
    name = "standard input" if task.source == STANDARD else task.source
    tell(f"{name} ({place})")
    try:
        _restore_file(task, pretrained, options)
    except MemoryError as error:
        tell(f"error: {name}: this machine has too little memory ({one_line(error)})")
        return False
    except UserError as error:
        tell(f"error: {error}")
        return False
    return True


def check_one_view(pretrained: Pretrained) -> None:
    """Raises `UserError` if the network takes several views, which no image file holds."""
    if views_of(pretrained.model) != 1:
        raise UserError(
            f"{pretrained.source} needs a left and a right view, and an image file holds one; use "
            "evaluate.py or the function deblur"
        )


def _restore_file(task: Task, pretrained: Pretrained, options: Options) -> None:
    source, destination = task
    from_input, to_output = source == STANDARD, destination == STANDARD
    image = read_image(read_input() if from_input else source, accept_damage=True)
    suffix = ".png" if to_output else destination.suffix
    notes = (*image.notes, *what_is_lost(image, suffix))
    given = image.pixels
    for path in (options.change, options.uncertainty):
        if path is not None:
            _check_fits(given, Path(path))
    restored, spread = _restored(given, pretrained, options)
    for note in notes:
        tell(f"note: {note}")
    result = dataclasses.replace(image, pixels=restored)
    if to_output:
        encoded = io.BytesIO()
        write_image(result, encoded, suffix)
        write_result(encoded.getvalue())
    else:
        _write(result, destination, options, options.quality)
    if options.change is not None:
        _write(change_map(given, restored), Path(options.change), options)
    if options.uncertainty is not None:
        _write(_map(spread / WHITE_UNCERTAINTY), Path(options.uncertainty), options)


def _check_fits(pixels, path):
    """Raises `UserError` if the image is too large for the format of a map."""
    try:
        what_is_lost(DecodedImage(pixels), path.suffix)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _restored(pixels, pretrained, options):
    """Returns the restored image, and the spread of its ensemble or None."""
    count = len(symmetries(1)) if options.ensemble else 1
    size = pixels.shape[:2]
    total = count * count_tiles(pretrained.model, *size, options.stride, options.tile)
    with Progress(total, "tiles") as progress:
        settings = {
            "stride": options.stride,
            "tile": options.tile,
            "batch_size": options.batch_size,
            "on_tiles": progress.advance,
        }
        if not options.ensemble:
            return deblur(pixels, pretrained, strength=options.strength, **settings), None
        mean, spread = restored_ensemble(pixels, pretrained, **settings)
    return as_dtype(blend(pixels, mean, options.strength), pixels.dtype), spread


def _write(image, destination, options, quality=None):
    try:
        write_image(image, destination, overwrite=options.overwrite, quality=quality)
    except ExistsError:
        if not options.skip_existing:
            raise
        tell(f"{destination} is done already")
    else:
        tell(f"written: {destination}")


def change_map(given: Samples, restored: Samples) -> DecodedImage:
    """Returns the map of the change: white is `WHITE_CHANGE` or more, mean of the channels."""
    change = np.abs(as_float(restored) - as_float(given)).mean(axis=-1)
    return _map(change / WHITE_CHANGE)


def _map(shares):
    return DecodedImage(
        as_dtype(np.repeat(shares[..., None].astype(np.float32), 3, axis=-1), np.uint8)
    )
