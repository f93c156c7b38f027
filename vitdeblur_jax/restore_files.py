"""Photographs in files: restore each, keep what its file tells beside the pixels."""

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vitdeblur_jax.checkpoints import Pretrained, load_pretrained
from vitdeblur_jax.data.image_writing import what_is_lost, write_photograph
from vitdeblur_jax.data.images import (
    IMAGE_SUFFIXES,
    list_photographs,
    read_photograph,
)
from vitdeblur_jax.deblurring import deblur
from vitdeblur_jax.entry_points import CANNOT
from vitdeblur_jax.errors import UserError
from vitdeblur_jax.progress import Progress
from vitdeblur_jax.restoration import check_stride, count_windows

STANDARD = "-"


class Task(NamedTuple):
    """A photograph and where its restoration goes; "-" is standard input or output."""

    source: str | Path
    destination: str | Path


def restore_files(
    sources: Sequence[str],
    output: str | None,
    checkpoint: str,
    *,
    stride: int,
    batch_size: int | None,
    overwrite: bool,
) -> int:
    """Restores files; says on standard error what was done, and what a file could not keep.

    Args:
      sources: files, folders (their photographs, not those of folders in them), or "-".
      output: a file for one photograph, a folder for any number, "-", or None: beside each
        photograph, `NAME_restored` with its ending.
      checkpoint: what `load_pretrained` takes.
      stride: step between windows, pixels.
      batch_size: windows computed at once, or None.
      overwrite: replace results that exist; otherwise they are refused before any work.

    Returns:
      0 when all were restored, 2 when some could not be; each of those was named.

    Raises:
      UserError: nothing could be begun.
    """
    if batch_size is not None and batch_size < 1:
        raise UserError(f"the batch size is {batch_size}; it must be 1 or more")
    tasks = plan(sources, output, overwrite)
    pretrained = load_pretrained(checkpoint)
    _check_model(pretrained, checkpoint, stride)
    failed = 0
    for number, task in enumerate(tasks, 1):
        name = "standard input" if task.source == STANDARD else task.source
        print(f"{name} ({number} of {len(tasks)})", file=sys.stderr)
        try:
            _restore_file(task, pretrained, stride, batch_size)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            failed += 1
    return CANNOT if failed else 0


def plan(sources: Sequence[str], output: str | None, overwrite: bool) -> list[Task]:
    """Returns what is to be restored to where; creates the output folder where one is named.

    Raises:
      UserError: a source is missing, a result exists, two have one name, or an ending is unknown.
    """
    files = [file for source in sources for file in _files(source, output)]
    into_folder = output not in (None, STANDARD) and (
        len(files) > 1 or output.endswith("/") or any(map(os.path.isdir, (output, *sources)))
    )
    if into_folder:
        _make_folder(output)
    elif output is not None and len(files) > 1:
        raise UserError("standard output takes one photograph; name a folder with -o for several")
    tasks = [Task(file, _destination(file, output, into_folder)) for file in files]
    _check(tasks, overwrite)
    return tasks


def _files(source: str, output: str | None) -> list[str | Path]:
    if source == STANDARD:
        return [STANDARD]
    if os.path.isdir(source):
        if output is None:
            raise UserError(f"{source} is a folder: say with -o in which folder the results go")
        return list(list_photographs(source))
    if not os.path.exists(source):
        raise UserError(f"{source}: there is no such file")
    return [Path(source)]


def _destination(file: str | Path, output: str | None, into_folder: bool) -> str | Path:
    if not into_folder and output is not None:
        return output if output == STANDARD else Path(output)
    if file == STANDARD:
        return Path(output) / "restored.png" if into_folder else STANDARD
    suffix = file.suffix if file.suffix.lower() in IMAGE_SUFFIXES else ".png"
    if into_folder:
        return Path(output) / f"{file.stem}{suffix}"
    return file.with_name(f"{file.stem}_restored{suffix}")


def _make_folder(folder: str) -> None:
    if Path(folder).suffix.lower() in IMAGE_SUFFIXES and not os.path.isdir(folder):
        raise UserError(f"{folder} is the name of one picture; name a folder with -o for several")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be made ({error.strerror})") from error


def _check(tasks: list[Task], overwrite: bool) -> None:
    seen = {}
    sources = {os.path.realpath(task.source) for task in tasks if task.source != STANDARD}
    for source, destination in tasks:
        if destination in seen:
            raise UserError(f"{seen[destination]} and {source} would both become {destination}")
        seen[destination] = source
        if destination == STANDARD:
            continue
        path = os.path.realpath(destination)
        if path in sources and (source == STANDARD or path != os.path.realpath(source)):
            raise UserError(f"{destination} is to be restored itself: {source} cannot overwrite it")
        if destination.suffix.lower() not in IMAGE_SUFFIXES:
            good = ", ".join(IMAGE_SUFFIXES)
            raise UserError(
                f"{destination}: the ending of a picture is one of {good}; a folder ends in /"
            )
        if os.path.exists(destination) and not overwrite:
            raise UserError(f"{destination} exists; --force overwrites it")
        if not os.path.isdir(destination.parent):
            raise UserError(f"{destination}: there is no folder {destination.parent}")


def _check_model(pretrained: Pretrained, checkpoint: str, stride: int) -> None:
    if pretrained.model.views != 1:
        raise UserError(
            f"{checkpoint} restores a left and a right view together, which no photograph file "
            "holds; evaluate.py and the function deblur take such pairs"
        )
    check_stride(pretrained.model, stride)


def _restore_file(task: Task, pretrained: Pretrained, stride: int, batch_size: int | None) -> None:
    source, destination = task
    from_input, to_output = source == STANDARD, destination == STANDARD
    photograph = read_photograph(sys.stdin.buffer.read() if from_input else source)
    height, width = photograph.pixels.shape[:2]
    with Progress(count_windows(pretrained.model, height, width, stride), "windows") as progress:
        pixels = deblur(
            photograph.pixels,
            pretrained,
            stride=stride,
            batch_size=batch_size,
            on_windows=progress.advance,
        )
    restored = dataclasses.replace(photograph, pixels=pixels)
    suffix = ".png" if to_output else destination.suffix
    for note in (*photograph.notes, *what_is_lost(restored, suffix)):
        print(f"note: {note}", file=sys.stderr)
    write_photograph(restored, sys.stdout.buffer if to_output else destination, suffix)
    if not to_output:
        print(f"written: {destination}", file=sys.stderr)
