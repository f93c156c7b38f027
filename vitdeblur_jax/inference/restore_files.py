"""Images in files: restore each, keep what its file tells beside the pixels."""

import dataclasses
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from vitdeblur_jax.checkpoints.load_save import BUNDLED_NOTE, load_pretrained
from vitdeblur_jax.checkpoints.pretrained import Pretrained, on_local_devices
from vitdeblur_jax.data.image_io import (
    IMAGE_SUFFIXES,
    DecodedImage,
    check_quality,
    is_lossy,
    left_out,
    list_images,
    read_image,
    subfolders,
    what_is_lost,
    write_image,
)
from vitdeblur_jax.distributed.processes import gather, is_first, split_across_processes, together
from vitdeblur_jax.inference.deblurring import blend, check_strength, deblur, restored_ensemble
from vitdeblur_jax.inference.pixels import as_dtype, as_float
from vitdeblur_jax.inference.restoration import check_options, count_tiles, tell_of_tiling
from vitdeblur_jax.inference.self_ensemble import symmetries
from vitdeblur_jax.models.network import views_of
from vitdeblur_jax.utils.errors import ExistsError, UserError, one_line
from vitdeblur_jax.utils.output import (
    check_result_can_be_written,
    read_input,
    tell,
    write_result,
)
from vitdeblur_jax.utils.progress import Progress

STANDARD = "-"

# What is white in a map: this share of an image's range. Fixed, so that maps can be compared.
WHITE_CHANGE = 32 / 255
WHITE_UNCERTAINTY = 8 / 255


class Options(NamedTuple):
    """How to restore, and what to write beside the restoration.

    Attributes:
      strength: from 0 to 1, how much of the restoration is taken; the rest is the image.
      ensemble: take the mean over the eight flips and turns.
      change: a file for a map of where the image was changed, or None.
      uncertainty: a file for a map of where the eight disagree, or None; needs `ensemble`.
      stride: step between windows, pixels; None: the model's.
      batch_size: windows computed at once; None: 1 a CPU, 8 another device.
      overwrite: replace files that exist; otherwise they are refused before any work.
      skip_existing: leave out images whose results exist, as those of an interrupted run.
      recursive: take the images of the folders in a folder, too.
      quality: of results in JPEG and WebP, from 1 to 100; None: as the image's own.
    """

    strength: float = 1.0
    ensemble: bool = False
    change: str | None = None
    uncertainty: str | None = None
    stride: int | None = None
    batch_size: int | None = None
    overwrite: bool = False
    skip_existing: bool = False
    recursive: bool = False
    quality: int | None = None


class Task(NamedTuple):
    """An image and where its restoration goes; "-" is standard input or output."""

    source: str | Path
    destination: str | Path


def restore_files(
    sources: Sequence[str], output: str | None, checkpoint: str | None, options: Options
) -> int:
    """Restores files; says on standard error what was done, and what a file could not keep.

    Several processes share them out; the results have to go to a disk that they share.

    Args:
      sources: files, folders (their images), or "-".
      output: a file for one image, a folder for any number, "-", or None: beside each
        image, `NAME_restored` with its ending.
      checkpoint: what `load_pretrained` takes; None: the weights that come with the package.
      options: how.

    Returns:
      How many could not be restored; each of those was named.

    Raises:
      UserError: nothing could be begun.
    """
    with together():  # all have planned before the first result is there
        check_strength(options.strength)
        replaces = options.overwrite or options.skip_existing
        tasks = plan(sources, output, replaces, options.recursive)
        _check_maps(options, tasks)
        _check_quality(options.quality, tasks)
        if options.skip_existing:
            _check_done_can_be_told(tasks)
        waiting = [
            (number, task)
            for number, task in enumerate(tasks, 1)
            if not (options.skip_existing and _is_done(task))
        ]
        pretrained = on_local_devices(load_pretrained(checkpoint))
        _check_model(pretrained)
        check_options(pretrained.model, options.stride, options.batch_size)
        _make_folder(tasks, output)
    if is_first():
        _tell_left_out(sources, options.recursive)
    if is_first() and len(waiting) < len(tasks):
        tell(f"{len(tasks) - len(waiting)} of {len(tasks)} are done already")
    if is_first() and checkpoint is None:
        tell(f"checkpoint: {BUNDLED_NOTE}")
    if is_first():
        tell_of_tiling(pretrained.model, options.stride)
    failed = 0
    for number, task in split_across_processes(waiting):
        if options.skip_existing and _is_done(task):
            tell(f"{task.destination} is done already")  # by another process, meanwhile
            continue
        name = "standard input" if task.source == STANDARD else task.source
        tell(f"{name} ({number} of {len(tasks)})")
        try:
            _restore_file(task, pretrained, options)
        except ExistsError as error:
            if not options.skip_existing:
                tell(f"error: {error}")
                failed += 1
        except MemoryError as error:
            tell(f"error: {name}: this machine has too little memory ({one_line(error)})")
            failed += 1
        except UserError as error:
            tell(f"error: {error}")
            failed += 1
    failed = sum(gather(failed))
    if failed and len(waiting) > 1 and is_first():
        tell(f"{failed} of {len(waiting)} could not be restored; the errors above name them")
    return failed


def _is_done(task: Task) -> bool:
    return task.destination != STANDARD and os.path.exists(task.destination)


def _tell_left_out(sources: Sequence[str], recursive: bool) -> None:
    for source in sources:
        if source != STANDARD and os.path.isdir(source):
            line = left_out(source, recursive=recursive)
            has_folders = not recursive and subfolders(Path(source))
            if line:
                tell(f"{source}: {line}{'; --recursive takes folders' if has_folders else ''}")


def plan(
    sources: Sequence[str], output: str | None, overwrite: bool, recursive: bool = False
) -> list[Task]:
    """Returns what is to be restored to where.

    With `recursive`, the results of folders in a folder lie in folders of the same names.

    Raises:
      UserError: a source is missing, a result exists, two have one name, or an ending is unknown.
    """
    files = [file for source in sources for file in _files(source, output, recursive)]
    into_folder = output not in (None, STANDARD) and (
        len(files) > 1 or output.endswith("/") or any(map(os.path.isdir, (output, *sources)))
    )
    if into_folder:
        _check_folder(output)
    elif output is not None and len(files) > 1:
        raise UserError("standard output takes one image; name a folder with -o for several")
    tasks = [Task(file, _destination(file, output, into_folder, below)) for file, below in files]
    _check(tasks, overwrite, into_folder)
    return tasks


def _files(source: str, output: str | None, recursive: bool) -> list[tuple[str | Path, Path]]:
    """Returns the images of a source, and the folder of each below the output folder."""
    if source == STANDARD:
        return [(STANDARD, Path())]
    if os.path.isdir(source):
        if output is None:
            raise UserError(f"{source} is a folder: say with -o in which folder the results go")
        images = list_images(source, recursive=recursive)
        results = Path(output).resolve()
        if Path(source).resolve() in results.parents:  # of an earlier run
            images = [path for path in images if results not in path.resolve().parents]
        if not images:
            raise UserError(f"no images in {source} but those in {output}, which are results")
        return [(path, path.parent.relative_to(source)) for path in images]
    if not os.path.exists(source):
        raise UserError(f"{source}: there is no such file")
    return [(Path(source), Path())]


def _destination(
    file: str | Path, output: str | None, into_folder: bool, below: Path
) -> str | Path:
    if not into_folder and output is not None:
        return output if output == STANDARD else Path(output)
    if file == STANDARD:
        return Path(output) / "restored.png" if into_folder else STANDARD
    stem = _stem(file)
    suffix = file.name.removeprefix(stem)
    if suffix.lower() not in IMAGE_SUFFIXES:
        suffix += ".png"  # a.gif becomes a.gif.png, for there may be an a.png, now or later
    if into_folder:
        return Path(output) / below / f"{stem}{suffix}"
    return file.with_name(f"{stem}_restored{suffix}")


def _stem(file: Path) -> str:
    """Returns the name without an image format's ending; IMG.2024-05-01 has none."""
    is_ending = file.suffix.lower() in (*IMAGE_SUFFIXES, *Image.registered_extensions())
    return file.stem if is_ending else file.name


def _check_folder(folder: str) -> None:
    if Path(folder).suffix.lower() in IMAGE_SUFFIXES and not os.path.isdir(folder):
        raise UserError(f"{folder} is the name of one picture; name a folder with -o for several")


def _make_folder(tasks: list[Task], output: str | None) -> None:
    """Makes the output folder, once all is known to be well: a refused command leaves nothing."""
    folders = {task.destination.parent for task in tasks if task.destination != STANDARD}
    if output in (None, STANDARD):
        return
    try:
        for folder in folders:
            os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {output} cannot be made ({error.strerror})") from error


def _check(tasks: list[Task], overwrite: bool, into_folder: bool) -> None:
    seen = {}
    sources = {os.path.realpath(task.source) for task in tasks if task.source != STANDARD}
    for source, destination in tasks:
        path = destination if destination == STANDARD else os.path.realpath(destination)
        if path in seen:
            raise UserError(f"{seen[path]} and {source} would both become {destination}")
        seen[path] = source
        if destination == STANDARD:
            check_result_can_be_written()
            continue
        if path in sources and (source == STANDARD or path != os.path.realpath(source)):
            raise UserError(
                f"{destination} is to be restored itself: {source} cannot overwrite it; leave one "
                "of them out, or name another folder with -o"
            )
        endings = f"a picture is one of {', '.join(IMAGE_SUFFIXES)}; a folder ends in /"
        _check_file(destination, endings, overwrite, needs_folder=not into_folder)


def _check_maps(options: Options, tasks: list[Task]) -> None:
    maps = [name for name in (options.change, options.uncertainty) if name is not None]
    if maps and len(tasks) > 1:
        raise UserError(f"{maps[0]} can be the map of one image; these are {len(tasks)}")
    others = {os.path.realpath(path) for path in tasks[0] if path != STANDARD} if tasks else set()
    for name in maps:
        if os.path.realpath(name) in others:
            raise UserError(f"{name} would be two things; give each map a name of its own")
        others.add(os.path.realpath(name))
        endings = f"a map is one of {', '.join(IMAGE_SUFFIXES)}"
        _check_file(Path(name), endings, options.overwrite)


def _check_done_can_be_told(tasks: list[Task]) -> None:
    for source, destination in tasks:
        is_in_place = os.path.realpath(source) == os.path.realpath(destination)
        if is_in_place and destination != STANDARD:
            raise UserError(
                f"{destination} is to be restored in its place, so that none could tell whether it "
                "is done; name another folder with -o, or leave --skip-existing out"
            )


def _check_quality(quality: int | None, tasks: list[Task]) -> None:
    if quality is None:
        return
    check_quality(quality)
    suffixes = [".png" if t.destination == STANDARD else t.destination.suffix for t in tasks]
    if tasks and not any(is_lossy(suffix) for suffix in suffixes):
        raise UserError(f"--quality is for JPEG and WebP; {tasks[0].destination} is neither")


def _check_file(path: Path, endings: str, overwrite: bool, needs_folder: bool = True) -> None:
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise UserError(f"{path}: the ending of {endings}")
    if os.path.exists(path) and not overwrite:
        raise UserError(f"{path} exists; --force overwrites it")
    if needs_folder and not os.path.isdir(path.parent):
        raise UserError(f"{path}: there is no folder {path.parent}")


def _check_model(pretrained: Pretrained) -> None:
    if views_of(pretrained.model) != 1:
        raise UserError(
            f"{pretrained.source} restores a left and a right view together, which no image "
            "file holds; evaluate.py and the function deblur take such pairs"
        )


def _restore_file(task: Task, pretrained: Pretrained, options: Options) -> None:
    source, destination = task
    from_input, to_output = source == STANDARD, destination == STANDARD
    image = read_image(read_input() if from_input else source, accept_damage=True)
    suffix = ".png" if to_output else destination.suffix
    notes = (*image.notes, *what_is_lost(image, suffix))
    given = image.pixels
    restored, spread = _restored(given, pretrained, options)
    for note in notes:
        tell(f"note: {note}")
    result = dataclasses.replace(image, pixels=restored)
    _write(result, destination, suffix, options.overwrite, options.quality)
    if options.change is not None:
        change = np.abs(as_float(restored) - as_float(given)).mean(axis=-1)
        _write_map(change / WHITE_CHANGE, options.change, options.overwrite)
    if options.uncertainty is not None:
        _write_map(spread / WHITE_UNCERTAINTY, options.uncertainty, options.overwrite)


def _restored(pixels, pretrained, options):
    """Returns the restoration, and its spread if it is that of an ensemble."""
    count = len(symmetries(1)) if options.ensemble else 1
    total = count * count_tiles(pretrained.model, *pixels.shape[:2], options.stride)
    with Progress(total, "tiles") as progress:
        settings = {
            "stride": options.stride,
            "batch_size": options.batch_size,
            "on_tiles": progress.advance,
        }
        if not options.ensemble:
            return deblur(pixels, pretrained, strength=options.strength, **settings), None
        mean, spread = restored_ensemble(pixels, pretrained, **settings)
    return as_dtype(blend(pixels, mean, options.strength), pixels.dtype), spread


def _write(image, destination, suffix, overwrite, quality=None):
    if destination == STANDARD:
        encoded = io.BytesIO()
        write_image(image, encoded, suffix)
        write_result(encoded.getvalue())
        return
    write_image(image, destination, overwrite=overwrite, quality=quality)
    tell(f"written: {destination}")


def _write_map(shares, name, overwrite):
    gray = as_dtype(np.repeat(shares[..., None].astype(np.float32), 3, axis=-1), np.uint8)
    _write(DecodedImage(gray), Path(name), None, overwrite)
