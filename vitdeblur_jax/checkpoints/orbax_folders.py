"""Checkpoint folders: Orbax with two items, "variables" and "config".

A training run has one such folder a step, with more items beside these two.

Orbax is imported late: it takes longer to import than all the rest.
"""

import contextlib
import json
import logging
import math
import os
import re
import shutil
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from vitdeblur_jax.checkpoints.checksums import checksum
from vitdeblur_jax.checkpoints.destinations import check_replaceable
from vitdeblur_jax.utils import signals
from vitdeblur_jax.utils.config_checks import shown
from vitdeblur_jax.utils.errors import UserError, one_line
from vitdeblur_jax.utils.files import check_absent, check_regular, folder_when_whole, write_text
from vitdeblur_jax.utils.json_files import read_json

_NO_FOLDER = (
    "{} is no checkpoint folder of this package (it lacks a readable 'config' and 'variables')"
)


class FolderMetadata(NamedTuple):
    """What a folder says of itself.

    Attributes:
      config: what the checkpoint says of its network, unchecked.
      checksums: by item, see `checksum`; empty in folders from before there were any.
      shapes: of the variables, by path.
    """

    config: dict
    checksums: dict
    shapes: dict[str, tuple[int, ...]]


def read_folder_metadata(path: Path) -> FolderMetadata:
    """Reads what a checkpoint folder says of itself.

    Raises:
      UserError: the folder is no such checkpoint.
    """
    path = path.resolve()
    if not os.path.lexists(path / "config" / "metadata"):
        raise UserError(_NO_FOLDER.format(path))
    _check_all_regular(path)
    try:
        config = read_json(path / "config" / "metadata")
        with _checkpointer() as checkpointer:
            tree = checkpointer.metadata(path).item_metadata["variables"].tree
            shapes = flat_shapes(tree)
    except Exception as error:  # Orbax raises nearly anything on damaged files
        raise UserError(_NO_FOLDER.format(path)) from error
    checksums = config.pop("checksums", {})
    return FolderMetadata(config, checksums, shapes)


def read_folder_variables(path: Path, abstract_variables: dict, checksums: dict) -> dict:
    """Returns the variables, of the shapes and dtypes of `abstract_variables`, on one device.

    Whatever devices they were saved from: Orbax would otherwise look for those.

    Raises:
      UserError: they cannot be read, or are not those that were saved.
    """
    import orbax.checkpoint as ocp

    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    placed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), abstract_variables
    )
    items = ocp.args.Composite(variables=ocp.args.StandardRestore(placed))
    with _checkpointer() as checkpointer:
        try:
            variables = checkpointer.restore(path.resolve(), items).variables
        except Exception as error:  # Orbax passes on whatever TensorStore raises
            raise UserError(f"{path}: cannot be read ({orbax_reason(error)})") from error
    if damaged_items({"variables": variables}, checksums):
        raise UserError(
            f"{path}: its data is damaged (the checksum differs); copy or save it again"
        )
    return variables


def damaged_items(trees: dict, checksums: Any) -> list[str]:
    """Returns the names of the trees whose checksum is another one than was saved for them.

    Args:
      trees: of arrays, by name.
      checksums: by name; of a tree that has none, nothing is known.
    """
    saved = checksums if isinstance(checksums, dict) else {}
    return [name for name in trees if name in saved and checksum(trees[name]) != saved[name]]


def write_folder(path: Path, variables: dict, config: dict, overwrite: bool) -> None:
    """Writes beside the destination first: an older checkpoint is lost only to a whole one.

    Args:
      path: of the folder.
      variables: of the model.
      config: what to say of the network.
      overwrite: replace an older checkpoint at `path`; anything else is kept.

    Raises:
      UserError: it cannot be written there.
    """
    import orbax.checkpoint as ocp

    check_space(variables, path.parent)
    saved = {**config, "checksums": {"variables": checksum(variables)}}
    items = ocp.args.Composite(
        variables=ocp.args.StandardSave(variables), config=ocp.args.JsonSave(saved)
    )
    with folder_when_whole(path, check_replaceable if overwrite else check_absent) as new:
        try:
            with _checkpointer() as checkpointer:
                checkpointer.save(new, items, force=True)
        except Exception as error:  # Orbax passes on whatever its threads and TensorStore raise
            raise UserError(f"{path}: cannot be written ({orbax_reason(error)})") from error


def _check_all_regular(folder):
    for parent, _, files in os.walk(folder):
        for name in files:
            check_regular(Path(parent) / name)


def check_space(tree, folder: Path) -> None:
    """Raises `UserError` if the arrays of `tree` have no room on the disk of `folder`.

    Refuses early: when a disk fills up under Orbax, its threads print pages of traces.
    """
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder}: the checkpoint needs {needed / 1e6:.1f} MB, {free / 1e6:.1f} MB are free"
        )


def flat_shapes(tree) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a tree by path, the same for what was saved and for Orbax's metadata.

    There named tuples are dicts, and tuples are lists.
    """
    import orbax.checkpoint as ocp

    flat = ocp.tree.to_flat_dict(tree, sep="/")
    return {name: tuple(leaf.shape) for name, leaf in flat.items()}


def step_folders(folder: Path) -> dict[int, Path]:
    """Returns the whole checkpoints in a run's folder of checkpoints, by step, in order.

    One that is being written, or was when its process died, has a longer name.
    """
    _, names, _ = next(os.walk(folder), (folder, [], []))
    steps = sorted(int(name) for name in names if name.isdecimal() and str(int(name)) == name)
    return {step: folder / str(step) for step in steps}


def chosen_checkpoint(path: Path) -> Path:
    """Returns which checkpoint of a training run to use, or `path` itself if it is no run's.

    Args:
      path: the run's folder, the folder "checkpoints" in it, or anything else.

    Raises:
      UserError: the run has none yet, or one is damaged.
    """
    inside = path / "checkpoints"
    steps = step_folders(inside if os.path.isdir(inside) else path)
    if steps:
        return steps[max(steps, key=lambda step: (read_psnr(steps[step]), step))]
    if os.path.isdir(inside):
        raise UserError(f"{path}: this run has saved no checkpoint yet")
    return path


def read_psnr(step_folder: Path) -> float:
    """Returns the validation PSNR that a step was saved with, in dB; minus infinity if without.

    Raises:
      UserError: it is damaged.
    """
    path = _metrics_file(step_folder)
    try:
        return psnr_of(read_json(path)) if os.path.lexists(path) else -math.inf
    except UserError as error:
        raise UserError(f"{error}; delete {step_folder}") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)}); delete {step_folder}") from (
            error
        )


def write_psnr(step_folder: Path, psnr: float) -> None:
    """Writes the PSNR of a step that was saved without, for `read_psnr` and for Orbax.

    Raises:
      OSError: it cannot be written.
    """
    path = _metrics_file(step_folder)
    path.parent.mkdir(exist_ok=True)
    write_text(path, json.dumps({"psnr": psnr}))


def _metrics_file(step_folder):
    return step_folder / "metrics" / "metrics"  # where Orbax's CheckpointManager has it


def psnr_of(metrics: dict) -> float:
    """Returns what `read_psnr` does, of what Orbax keeps as the metrics of a step.

    Raises:
      ValueError: the PSNR is no number.
    """
    psnr = metrics.get("psnr", -math.inf)
    if not isinstance(psnr, int | float) or isinstance(psnr, bool) or math.isnan(psnr):
        raise ValueError(f"psnr is {shown(psnr)}, which is no number")
    return psnr


@contextlib.contextmanager
def hushed_orbax() -> Iterator[None]:
    """Keeps what Orbax logs from the terminal: of what goes wrong, it raises an error as well.

    Loggers and hooks are as before afterwards. Only a command's own process, which an error ends,
    stays hushed after one: Orbax's threads still complain when the error is told.
    """
    # asyncio logs by itself what nobody fetches of Orbax's errors, when that is thrown away.
    loggers, hook = [logging.getLogger(name) for name in ("absl", "asyncio")], sys.unraisablehook

    def is_of_others(record):
        return not _is_of_orbax(record.pathname)

    def tell_of_others(unraisable):
        frames = traceback.walk_tb(unraisable.exc_traceback)
        if not any(_is_of_orbax(frame.f_code.co_filename) for frame, _ in frames):
            hook(unraisable)

    def undo():
        for logger in loggers:
            logger.removeFilter(is_of_others)
        sys.unraisablehook = hook

    for logger in loggers:
        logger.addFilter(is_of_others)
    sys.unraisablehook = tell_of_others
    try:
        yield
    except BaseException:
        if not signals.is_listening():
            undo()
        raise
    undo()


def _is_of_orbax(file):
    # TensorStore's threads find the event loops closed that Orbax has given them.
    return not {"orbax", "asyncio"}.isdisjoint(Path(file).parts)


def orbax_reason(error: Exception) -> str:
    """Returns what an error of Orbax says, as one short line.

    TensorStore's begin with what was done to which file, and end with details of the source; the
    reason stands between.
    """
    said = re.sub(r"( \[\w+=|\. See full TensorStore).*", "", " ".join(str(error).split()))
    reason = said.rpartition('": ')[2][:200]
    if isinstance(error, TypeError | AttributeError | LookupError):  # of damaged metadata
        return "unexpected contents"
    is_plain = isinstance(error, OSError | UnicodeError)
    return reason if reason and not is_plain else one_line(error)


@contextlib.contextmanager
def _checkpointer():
    import orbax.checkpoint as ocp

    handlers = {"variables": ocp.StandardCheckpointHandler(), "config": ocp.JsonCheckpointHandler()}
    with (
        hushed_orbax(),
        ocp.Checkpointer(ocp.CompositeCheckpointHandler(**handlers)) as checkpointer,
    ):
        yield checkpointer
