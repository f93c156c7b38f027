"""Checkpoint folders: Orbax checkpoints with the items "variables" and "config".

A training run has one such folder for each saved step, with more items beside these two.

Orbax is imported inside functions, because it takes longer to import than the rest of the package.
"""

import contextlib
import json
import math
import os
import shutil
from typing import Any, NamedTuple

import jax

from vitdeblur_jax.checkpoints.checksums import checksum
from vitdeblur_jax.checkpoints.destinations import check_replaceable
from vitdeblur_jax.checkpoints.orbax_errors import orbax_reason, quiet_orbax
from vitdeblur_jax.checkpoints.orbax_s3 import prepare_for
from vitdeblur_jax.distributed.processes import is_first
from vitdeblur_jax.utils.buckets import (
    AnyPath,
    absolute,
    is_folder,
    is_remote,
    lexists,
    names_in,
)
from vitdeblur_jax.utils.config_checks import shown
from vitdeblur_jax.utils.errors import UserError, one_line
from vitdeblur_jax.utils.files import check_absent, check_regular, folder_when_whole, write_text
from vitdeblur_jax.utils.json_files import read_json
from vitdeblur_jax.utils.output import tell

_COMMITTED = "commit_success.txt"
_NO_FOLDER = (
    "{} is not a checkpoint folder of this package (it has no readable 'config' and 'variables')"
)


class FolderMetadata(NamedTuple):
    """The metadata of a checkpoint folder.

    Attributes:
      config: The description of the network, see `saved_config`; unchecked.
      checksums: The checksum of each item; empty in old checkpoints.
      shapes: The shapes of the variables, by path.
    """

    config: dict
    checksums: dict
    shapes: dict[str, tuple[int, ...]]


def read_folder_metadata(path: AnyPath) -> FolderMetadata:
    """Reads the metadata of a checkpoint folder.

    Raises:
      UserError: The folder is not a checkpoint of this package.
    """
    path = absolute(path)
    if not lexists(path / "config" / "metadata"):
        raise UserError(_NO_FOLDER.format(path))
    _check_all_regular(path)
    try:
        config = read_json(path / "config" / "metadata")
        with _checkpointer(path) as checkpointer:
            tree = checkpointer.metadata(path).item_metadata["variables"].tree
            shapes = flat_shapes(tree)
    except Exception as error:  # damaged files make Orbax raise almost any exception
        raise UserError(_NO_FOLDER.format(path)) from error
    checksums = config.pop("checksums", {})
    return FolderMetadata(config, checksums, shapes)


def read_folder_variables(path: AnyPath, abstract_variables: dict, checksums: dict) -> dict:
    """Reads the variables of a checkpoint folder onto the first local device.

    The sharding is explicit, because Orbax would otherwise require the devices that saved them.

    Args:
      path: The folder.
      abstract_variables: The shapes and dtypes to restore.
      checksums: The saved checksums, by item.

    Raises:
      UserError: The variables cannot be read or are damaged.
    """
    import orbax.checkpoint as ocp

    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    placed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), abstract_variables
    )
    items = ocp.args.Composite(variables=ocp.args.StandardRestore(placed))
    with _checkpointer(path) as checkpointer:
        try:
            variables = checkpointer.restore(absolute(path), items).variables
        except Exception as error:  # TensorStore's exceptions have no common type
            raise UserError(f"{path}: cannot be read ({orbax_reason(error)})") from error
    if damaged_items({"variables": variables}, checksums):
        raise UserError(
            f"{path}: its data is damaged (the checksum differs); copy or save it again"
        )
    return variables


def damaged_items(trees: dict, checksums: Any) -> list[str]:
    """Returns the names of the trees whose checksum differs from the saved one.

    Args:
      trees: Trees of arrays, by name.
      checksums: The saved checksums, by name; a tree without one is not checked.
    """
    saved = checksums if isinstance(checksums, dict) else {}
    return [name for name in trees if name in saved and checksum(trees[name]) != saved[name]]


def write_folder(path: AnyPath, variables: dict, config: dict, overwrite: bool) -> None:
    """Writes a checkpoint folder; it appears at `path` only when it is complete.

    Args:
      path: The folder to write.
      variables: The variables of the network.
      config: The description of the network, see `saved_config`.
      overwrite: Replace an older checkpoint at `path`; anything else is an error.

    Raises:
      UserError: The folder cannot be written.
    """
    import orbax.checkpoint as ocp

    check_space(variables, path.parent)
    saved = {**config, "checksums": {"variables": checksum(variables)}}
    items = ocp.args.Composite(
        variables=ocp.args.StandardSave(variables), config=ocp.args.JsonSave(saved)
    )
    with folder_when_whole(path, check_replaceable if overwrite else check_absent) as new:
        try:
            with _checkpointer(path) as checkpointer:
                checkpointer.save(new, items, force=True)
        except Exception as error:  # TensorStore's exceptions have no common type
            raise UserError(f"{path}: cannot be written ({orbax_reason(error)})") from error


def _check_all_regular(folder):
    for parent, _, files in os.walk(folder):
        for name in files:
            check_regular(os.path.join(parent, name))


def check_space(tree, folder: AnyPath) -> None:
    """Raises `UserError` if the disk of `folder` has too little space for the arrays of `tree`.

    Checks in advance, because Orbax's threads print long tracebacks when a disk fills up.
    """
    if is_remote(folder):
        return
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder}: the checkpoint needs {needed / 1e6:.1f} MB, {free / 1e6:.1f} MB are free"
        )


def flat_shapes(tree) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a tree by path.

    The paths are the same for a tree and for Orbax's metadata of it, where named tuples are dicts
    and tuples are lists.
    """
    import orbax.checkpoint as ocp

    flat = ocp.tree.to_flat_dict(tree, sep="/")
    return {name: tuple(leaf.shape) for name, leaf in flat.items()}


def step_folders(folder: AnyPath) -> dict[int, AnyPath]:
    """Returns the complete checkpoints in a run's folder of checkpoints, by step, in order.

    On disk an incomplete checkpoint has a longer name; in a bucket it lacks Orbax's last file.
    """
    if is_remote(folder):
        found = {step: folder / str(step) for step in _steps(names_in(folder))}
        return {step: path for step, path in found.items() if (path / _COMMITTED).exists()}
    _, names, _ = next(os.walk(folder), (folder, [], []))
    return {step: folder / str(step) for step in _steps(names)}


def unfinished_folders(folder: AnyPath) -> list[AnyPath]:
    """Returns the checkpoints of interrupted saves in a run's folder of checkpoints."""
    if not is_remote(folder):
        return sorted(folder.glob("*.orbax-checkpoint-tmp*"))
    complete = step_folders(folder)
    return [folder / str(step) for step in _steps(names_in(folder)) if step not in complete]


def _steps(names):
    return sorted(int(name) for name in names if name.isdecimal() and str(int(name)) == name)


def chosen_checkpoint(path: AnyPath) -> AnyPath:
    """Returns the best checkpoint of a training run, or `path` if it is not the folder of a run.

    Prints which checkpoint of the run it is.

    Args:
      path: The run's folder, the folder "checkpoints" in it, or any other path.

    Raises:
      UserError: The run has no checkpoint yet, or one is damaged.
    """
    inside = path / "checkpoints"
    steps = step_folders(inside if is_folder(inside) else path)
    if steps:
        best = steps[max(steps, key=lambda step: (read_psnr(steps[step]), step))]
        if is_first():
            tell(f"checkpoint: {best}")
        return best
    if is_folder(inside):
        raise UserError(f"{path}: this run has saved no checkpoint yet")
    return path


def read_psnr(step_folder: AnyPath) -> float:
    """Returns the validation PSNR saved with a step, in dB; minus infinity if there is none.

    Raises:
      UserError: The file is damaged.
    """
    path = _metrics_file(step_folder)
    try:
        return psnr_of(read_json(path)) if lexists(path) else -math.inf
    except UserError as error:
        raise UserError(f"{error}; delete {step_folder}") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)}); delete {step_folder}") from (
            error
        )


def write_psnr(step_folder: AnyPath, psnr: float) -> None:
    """Writes the PSNR of a step that was saved without one, for `read_psnr` and for Orbax.

    Raises:
      OSError: The file cannot be written.
    """
    path = _metrics_file(step_folder)
    path.parent.mkdir(exist_ok=True)
    write_text(path, json.dumps({"psnr": psnr}))


def _metrics_file(step_folder):
    return step_folder / "metrics" / "metrics"  # the path that Orbax's CheckpointManager uses


def psnr_of(metrics: dict) -> float:
    """Returns the PSNR in Orbax's metrics of a step; minus infinity if there is none.

    Raises:
      ValueError: The PSNR is not a number.
    """
    psnr = metrics.get("psnr", -math.inf)
    if not isinstance(psnr, int | float) or isinstance(psnr, bool) or math.isnan(psnr):
        raise ValueError(f"psnr is {shown(psnr)}, which is not a number")
    return psnr


@contextlib.contextmanager
def _checkpointer(path):
    import orbax.checkpoint as ocp

    prepare_for(path)
    handlers = {"variables": ocp.StandardCheckpointHandler(), "config": ocp.JsonCheckpointHandler()}
    with (
        quiet_orbax(),
        ocp.Checkpointer(ocp.CompositeCheckpointHandler(**handlers)) as checkpointer,
    ):
        yield checkpointer
