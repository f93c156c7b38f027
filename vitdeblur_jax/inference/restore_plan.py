"""Which image files to restore, where each result goes, and whether it may be written there."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from vitdeblur_jax.data.image_io import (
    IMAGE_SUFFIXES,
    RAW_SUFFIXES,
    READABLE_SUFFIXES,
    check_can_be_written,
    check_quality,
    is_lossy,
    left_out,
    list_images,
    subfolders,
)
from vitdeblur_jax.utils.buckets import check_on_disk
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.output import check_result_can_be_written, tell

STANDARD = "-"


class Options(NamedTuple):
    """How to restore, and what to write.

    Attributes:
      strength: Weight of the restored image, from 0 to 1; the rest is the input.
      ensemble: Average over the eight flips and rotations.
      change: File for a map of the change, or None.
      uncertainty: File for a map of the ensemble's spread, or None; needs `ensemble`.
      stride: Step between windows, in pixels; None for the network's.
      tile: Minimum side of a tile without its halo, in pixels; None for the network's.
      batch_size: Windows or tiles per batch; None for the default of `deblur`.
      overwrite: Replace existing files. Otherwise they are an error before any work.
      skip_existing: Keep files that exist, and skip an image if all of its files do. This resumes
        an interrupted run.
      recursive: Also restore the images in subfolders.
      dtype: Of the computation, as `load_pretrained` takes it; None for the checkpoint's.
      precision: Of float32 products on GPUs and TPUs; None for the checkpoint's.
      quality: Of JPEG, WebP, HEIC and AVIF results, from 1 to 100; None for the image's own.
    """

    strength: float = 1.0
    ensemble: bool = False
    change: str | None = None
    uncertainty: str | None = None
    stride: int | None = None
    tile: int | None = None
    batch_size: int | None = None
    overwrite: bool = False
    skip_existing: bool = False
    recursive: bool = False
    dtype: str | None = None
    precision: str | None = None
    quality: int | None = None


class Task(NamedTuple):
    """An image file and the file for its result; "-" is standard input or output."""

    source: str | Path
    destination: str | Path


def is_done(task: Task, options: Options) -> bool:
    """Returns whether the result and the maps exist."""
    paths = (task.destination, options.change, options.uncertainty)
    return task.destination != STANDARD and all(os.path.exists(p) for p in paths if p is not None)


def plan(sources: Sequence[str], output: str | None, options: Options) -> list[Task]:
    """Returns the images to restore and the files for their results; writes nothing.

    With `options.recursive`, results of subfolders go to subfolders of the same names.

    Args:
      sources: Files, folders (their images), or "-".
      output: A file for one image, a folder, "-", or None for `NAME_restored` beside each image.
      options: Whether results may exist, and which maps to write.

    Raises:
      UserError: A source is missing, a file may not be written, two results have the same name, or
        an option does not fit the images.
    """
    for path in (output, options.change, options.uncertainty):
        if path is not None:
            check_on_disk(path, "images")
    files = [file for source in sources for file in _files(source, output, options.recursive)]
    into_folder = output not in (None, STANDARD) and (
        len(files) > 1 or output.endswith("/") or any(map(os.path.isdir, (output, *sources)))
    )
    if into_folder:
        _check_folder(output)
    elif output is not None and len(files) > 1:
        raise UserError("standard output takes one image; name a folder with -o for several")
    tasks = [Task(file, _destination(file, output, into_folder, below)) for file, below in files]
    _check_destinations(tasks, options.overwrite or options.skip_existing, into_folder)
    _check_maps(options, tasks)
    _check_quality(options.quality, tasks)
    if options.skip_existing:
        _check_not_in_place(tasks)
    return tasks


def make_folders(tasks: Sequence[Task], output: str | None) -> None:
    """Creates the output folders of the tasks.

    Raises:
      UserError: A folder cannot be created.
    """
    if output in (None, STANDARD):
        return
    try:
        for folder in {task.destination.parent for task in tasks if task.destination != STANDARD}:
            os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {output} cannot be created ({error.strerror})") from error


def tell_left_out(sources: Sequence[str], recursive: bool) -> None:
    """Prints what the folders among the sources hold beside the images to restore."""
    for source in sources:
        if source != STANDARD and os.path.isdir(source):
            line = left_out(source, recursive=recursive)
            has_folders = not recursive and subfolders(Path(source))
            advice = "; --recursive includes the folders" if has_folders else ""
            if line:
                tell(f"{source}: {line}{advice}")


def _files(source: str, output: str | None, recursive: bool) -> list[tuple[str | Path, Path]]:
    """Returns the images of a source, each with its subfolder of the output folder."""
    if source == STANDARD:
        return [(STANDARD, Path())]
    if os.path.isdir(source):
        if output is None:
            raise UserError(f"{source} is a folder; name a folder for the results with -o")
        images = list_images(source, recursive=recursive)
        results = Path(output).resolve()
        if Path(source).resolve() in results.parents:  # results of an earlier run
            images = [path for path in images if results not in path.resolve().parents]
        if not images:
            raise UserError(f"no images in {source} except in {output}, the output folder")
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
    if into_folder:
        return Path(output) / below / result_name(file, "")
    return file.with_name(result_name(file))


def result_name(file: Path, addition: str = "_restored") -> str:
    """Returns the name of the result of an image file, with an addition before the ending."""
    stem = _stem(file)
    suffix = file.name.removeprefix(stem)
    if suffix.lower() not in IMAGE_SUFFIXES:
        suffix += ".png"  # a.gif.png or a.dng.png, because a.png may be the result of another image
    return f"{stem}{addition}{suffix}"


def _stem(file: Path) -> str:
    """Returns the name without the ending of an image format; IMG.2024-05-01 has none."""
    known = (*IMAGE_SUFFIXES, *READABLE_SUFFIXES, *RAW_SUFFIXES, *Image.registered_extensions())
    is_ending = file.suffix.lower() in known
    return file.stem if is_ending else file.name


def _check_folder(folder: str) -> None:
    if Path(folder).suffix.lower() in IMAGE_SUFFIXES and not os.path.isdir(folder):
        raise UserError(
            f"{folder} has the ending of an image; name a folder with -o for several images"
        )


def _check_destinations(tasks: list[Task], overwrite: bool, into_folder: bool) -> None:
    seen = {}
    sources = {os.path.realpath(task.source) for task in tasks if task.source != STANDARD}
    for source, destination in tasks:
        path = destination if destination == STANDARD else os.path.realpath(destination)
        if path in seen:
            raise UserError(f"{seen[path]} and {source} would both be written to {destination}")
        seen[path] = source
        if destination == STANDARD:
            check_result_can_be_written()
            continue
        if path in sources and (source == STANDARD or path != os.path.realpath(source)):
            raise UserError(
                f"{destination} is also an input, so the result of {source} cannot overwrite it; "
                "leave one of them out, or name another folder with -o"
            )
        endings = f"an image ends in one of {', '.join(IMAGE_SUFFIXES)}; a folder ends in /"
        _check_file(destination, endings, overwrite, needs_folder=not into_folder)


def _check_maps(options: Options, tasks: list[Task]) -> None:
    maps = [name for name in (options.change, options.uncertainty) if name is not None]
    if maps and len(tasks) > 1:
        raise UserError(f"{maps[0]}: a map is of one image, and there are {len(tasks)}")
    others = {os.path.realpath(path) for path in tasks[0] if path != STANDARD} if tasks else set()
    for name in maps:
        if os.path.realpath(name) in others:
            raise UserError(f"{name} names two files; give each map a name of its own")
        others.add(os.path.realpath(name))
        endings = f"a map ends in one of {', '.join(IMAGE_SUFFIXES)}"
        _check_file(Path(name), endings, options.overwrite or options.skip_existing)


def _check_quality(quality: int | None, tasks: list[Task]) -> None:
    if quality is None:
        return
    check_quality(quality)
    suffixes = [".png" if t.destination == STANDARD else t.destination.suffix for t in tasks]
    if tasks and not any(is_lossy(suffix) for suffix in suffixes):
        raise UserError(
            f"--quality is for JPEG, WebP, HEIC and AVIF; not for {tasks[0].destination}"
        )


def _check_not_in_place(tasks: list[Task]) -> None:
    for source, destination in tasks:
        if destination != STANDARD and os.path.realpath(source) == os.path.realpath(destination):
            raise UserError(
                f"{destination} would replace its own input, so --skip-existing cannot tell "
                "whether it is done; name another folder with -o, or drop --skip-existing"
            )


def _check_file(path: Path, endings: str, overwrite: bool, needs_folder: bool = True) -> None:
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise UserError(f"{path}: {endings}")
    check_can_be_written(path)
    if os.path.exists(path) and not overwrite:
        raise UserError(f"{path} exists; --force overwrites it")
    if needs_folder and not os.path.isdir(path.parent):
        raise UserError(f"{path}: there is no folder {path.parent}")
