"""Photographs in files: restore each, keep what its file tells beside the pixels."""

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vitdeblur_jax.checkpoints import Pretrained, load_pretrained, on_local_devices
from vitdeblur_jax.data.image_writing import what_is_lost, write_photograph
from vitdeblur_jax.data.images import (
    IMAGE_SUFFIXES,
    list_photographs,
    read_photograph,
)
from vitdeblur_jax.deblurring import deblur
from vitdeblur_jax.errors import UserError
from vitdeblur_jax.progress import Progress
from vitdeblur_jax.restoration import check_options, count_windows

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
    stride: int | None,
    batch_size: int | None,
    overwrite: bool,
) -> int:
    """Restores files; says on standard error what was done, and what a file could not keep.

    Args:
      sources: files, folders (their photographs, not those of folders in them), or "-".
      output: a file for one photograph, a folder for any number, "-", or None: beside each
        photograph, `NAME_restored` with its ending.
      checkpoint: what `load_pretrained` takes.
      stride: step between windows, pixels; None: the model's.
      batch_size: windows computed at once; None: 1 a CPU, 8 another device.
      overwrite: replace results that exist; otherwise they are refused before any work.

    Returns:
      How many could not be restored; each of those was named.

    Raises:
      UserError: nothing could be begun.
    """
    tasks = plan(sources, output, overwrite)
    pretrained = on_local_devices(load_pretrained(checkpoint))
    _check_model(pretrained, checkpoint)
    check_options(pretrained.model, stride, batch_size)
    failed = 0
    for number, task in enumerate(tasks, 1):
        name = "standard input" if task.source == STANDARD else task.source
        print(f"{name} ({number} of {len(tasks)})", file=sys.stderr)
        try:
            _restore_file(task, pretrained, stride, batch_size, overwrite)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            failed += 1
    return failed


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
        path = destination if destination == STANDARD else os.path.realpath(destination)
        if path in seen:
            raise UserError(f"{seen[path]} and {source} would both become {destination}")
        seen[path] = source
        if destination == STANDARD:
            continue
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


def _check_model(pretrained: Pretrained, checkpoint: str) -> None:
    if pretrained.model.views != 1:
        raise UserError(
            f"{checkpoint} restores a left and a right view together, which no photograph file "
            "holds; evaluate.py and the function deblur take such pairs"
        )


def _restore_file(
    task: Task,
    pretrained: Pretrained,
    stride: int | None,
    batch_size: int | None,
    overwrite: bool,
) -> None:
    source, destination = task
    from_input, to_output = source == STANDARD, destination == STANDARD
    photograph = read_photograph(sys.stdin.buffer.read() if from_input else source)
    suffix = ".png" if to_output else destination.suffix
    notes = (*photograph.notes, *what_is_lost(photograph, suffix))
    total = count_windows(pretrained.model, *photograph.pixels.shape[:2], stride)
    with Progress(total, "windows") as progress:
        pixels = deblur(
            photograph.pixels,
            pretrained,
            stride=stride,
            batch_size=batch_size,
            on_windows=progress.advance,
        )
    restored = dataclasses.replace(photograph, pixels=pixels)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if to_output:
        write_photograph(restored, sys.stdout.buffer, suffix)
        return
    write_photograph(restored, destination, overwrite=overwrite)
    print(f"written: {destination}", file=sys.stderr)
