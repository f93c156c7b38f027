"""Checkpoint folders: Orbax with two items, "variables" and "config".

Orbax is imported late: it takes longer to import than all the rest.
"""

import os
import shutil
import uuid
from pathlib import Path

import jax

from vitdeblur_jax.errors import UserError, one_line


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
            raise UserError(f"{path}: cannot be read ({one_line(error)})") from error


def write_folder(path: Path, variables: dict, config: dict) -> None:
    """Writes beside the destination first: an older checkpoint is lost only to a whole one.

    Raises:
      UserError: it cannot be written there.
    """
    import orbax.checkpoint as ocp

    path = path.resolve()
    _check_space(variables, path.parent)
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
        raise UserError(f"{path}: cannot be written ({one_line(error)})") from error
    finally:
        if old.exists() and not path.exists():
            os.rename(old, path)
        for rest in (old, *path.parent.glob(f"{fresh.name}*")):
            shutil.rmtree(rest, ignore_errors=True)


def _check_space(variables, folder):
    """Refuses early: when a disk fills up under Orbax, its threads print pages of traces."""
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder}: the checkpoint needs {needed / 1e6:.1f} MB, {free / 1e6:.1f} MB are free"
        )


def _checkpointer():
    import orbax.checkpoint as ocp

    handlers = {"variables": ocp.StandardCheckpointHandler(), "config": ocp.JsonCheckpointHandler()}
    return ocp.Checkpointer(ocp.CompositeCheckpointHandler(**handlers))
