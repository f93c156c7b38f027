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
import uuid
from collections.abc import Iterator
from pathlib import Path

import jax

from vitdeblur_jax.errors import UserError, one_line
from vitdeblur_jax.files import write_text


def read_folder_metadata(path: Path) -> tuple[dict, dict]:
    """Returns the configuration, and the variables' tree with shapes and dtypes.

    Raises:
      UserError: the folder is no such checkpoint.
    """
    import orbax.checkpoint as ocp

    path = path.resolve()
    with _checkpointer() as checkpointer:
        try:
            restored = checkpointer.restore(path, ocp.args.Composite(config=ocp.args.JsonRestore()))
            return restored.config, checkpointer.metadata(path).item_metadata["variables"].tree
        except (KeyError, ValueError, OSError, AttributeError, TypeError) as error:
            raise UserError(
                f"{path} is no checkpoint folder of this package (it lacks a readable 'config' and "
                "'variables')"
            ) from error


def read_folder_variables(path: Path, abstract_variables: dict) -> dict:
    """Returns the variables, of the shapes and dtypes of `abstract_variables`, on one device.

    Whatever devices they were saved from: Orbax would otherwise look for those.

    Raises:
      UserError: they cannot be read.
    """
    import orbax.checkpoint as ocp

    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    placed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), abstract_variables
    )
    items = ocp.args.Composite(variables=ocp.args.StandardRestore(placed))
    with _checkpointer() as checkpointer:
        try:
            return checkpointer.restore(path.resolve(), items).variables
        except Exception as error:  # Orbax passes on whatever TensorStore raises
            raise UserError(f"{path}: cannot be read ({orbax_reason(error)})") from error


def write_folder(path: Path, variables: dict, config: dict) -> None:
    """Writes beside the destination first: an older checkpoint is lost only to a whole one.

    Raises:
      UserError: it cannot be written there.
    """
    import orbax.checkpoint as ocp

    path = path.resolve()
    check_space(variables, path.parent)
    unique = uuid.uuid4().hex
    fresh, old = path.with_name(f".{unique}.new"), path.with_name(f".{unique}.old")
    items = ocp.args.Composite(
        variables=ocp.args.StandardSave(variables), config=ocp.args.JsonSave(config)
    )
    try:
        with _checkpointer() as checkpointer:
            checkpointer.save(fresh, items, force=True)
        if path.exists():
            path.rename(old)
        fresh.rename(path)
    except Exception as error:  # Orbax passes on whatever its threads and TensorStore raise
        raise UserError(f"{path}: cannot be written ({orbax_reason(error)})") from error
    finally:
        if old.exists() and not path.exists():
            os.rename(old, path)
        for rest in (old, *path.parent.glob(f"{fresh.name}*")):
            shutil.rmtree(rest, ignore_errors=True)


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
        return psnr_of(json.loads(path.read_text())) if path.exists() else -math.inf
    except (OSError, ValueError) as error:
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
    """Returns what `read_psnr` does, of what Orbax keeps as the metrics of a step."""
    return metrics.get("psnr", -math.inf)


@contextlib.contextmanager
def hushed_orbax() -> Iterator[None]:
    """Keeps what Orbax logs from the terminal: of what goes wrong, it raises an error as well.

    After an error for good, for its threads go on complaining when the error is told.
    """
    # asyncio logs by itself what nobody fetches of Orbax's errors, when that is thrown away.
    loggers, hook = [logging.getLogger(name) for name in ("absl", "asyncio")], sys.unraisablehook

    def is_of_others(record):
        return not _is_of_orbax(record.pathname)

    def tell_of_others(unraisable):
        frames = traceback.walk_tb(unraisable.exc_traceback)
        if not any(_is_of_orbax(frame.f_code.co_filename) for frame, _ in frames):
            hook(unraisable)

    for logger in loggers:
        logger.addFilter(is_of_others)
    sys.unraisablehook = tell_of_others
    yield
    for logger in loggers:
        logger.removeFilter(is_of_others)
    sys.unraisablehook = hook


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
    return reason if reason and not isinstance(error, OSError) else one_line(error)


@contextlib.contextmanager
def _checkpointer():
    import orbax.checkpoint as ocp

    handlers = {"variables": ocp.StandardCheckpointHandler(), "config": ocp.JsonCheckpointHandler()}
    with (
        hushed_orbax(),
        ocp.Checkpointer(ocp.CompositeCheckpointHandler(**handlers)) as checkpointer,
    ):
        yield checkpointer
