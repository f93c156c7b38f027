"""Finds the network of a published checkpoint by the names and shapes of its entries."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from vitdeblur_jax.checkpoints.addresses import located
from vitdeblur_jax.checkpoints.keras_files import renumbered
from vitdeblur_jax.checkpoints.state_dicts import read_state_dict
from vitdeblur_jax.models.network import abstract_variables
from vitdeblur_jax.models.networks import (
    NETWORKS,
    configuration_names,
    create_network,
    named_config,
)
from vitdeblur_jax.models.published import StateDict, check_weights, position_name, without_prefix
from vitdeblur_jax.models.rows import Published
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.output import tell
from vitdeblur_jax.utils.shapes import (
    check_most_names,
    check_shapes,
    few_of,
    shape_differences,
)


def recognized_network(state_dict: StateDict, where: str) -> nn.Module:
    """Returns the first named configuration that fits all entries of a state dict.

    Names are compared first. A network is traced, for its shapes, only if all its names are there.

    Args:
      state_dict: Arrays by name, as `published_names` takes them.
      where: The file's name, for errors.

    Raises:
      UserError: No configuration fits. The message names the nearest one and the differences.
    """
    nearest, most = "", (0.0, 0.0)
    faults: list[str] = []
    for name in configuration_names():
        network = create_network(named_config(name))
        published = published_of(network)
        names = published.names(network)
        wrong, fitting = _faults(published_names(state_dict, names, where), network)
        if not wrong:
            return network
        share = fitting / len(names), -len(wrong) / len(names)
        if share > most:
            nearest, most, faults = name, share, wrong
    if not nearest:
        raise UserError(
            f"{where} has no entry of any network (`vitdeblur networks` lists them); stored are "
            f"{few_of(state_dict) or 'none'}"
        )
    raise UserError(
        f"{where} fits no network; the nearest is {nearest!r}, but "
        f"{'1 entry differs' if len(faults) == 1 else f'{len(faults)} entries differ'}: "
        f"{few_of(faults, '; ')}"
    )


def _faults(state_dict: StateDict, network: nn.Module) -> tuple[list[str], int]:
    """Returns the differences to a network's entries, and how many of their names are there."""
    published = published_of(network)
    names = [name for name in published.names(network) if name not in published.optional]
    missing = [f"{name} is missing" for name in names if name not in state_dict]
    fitting = len(names) - len(missing)
    if missing:
        return missing, fitting
    shapes = published.shapes(network)
    wanted = {name: shape for name, shape in shapes.items() if name in state_dict}
    stored = {name: tuple(state_dict[name].shape) for name in wanted}
    return shape_differences(stored, wanted) + _unplaced(state_dict, wanted), fitting


def _unplaced(state_dict: StateDict, names: Iterable[str]) -> list[str]:
    """Returns the surplus entries of a checkpoint without names, where each entry must be used."""
    if position_name(0) not in names:
        return []
    return [f"{name} has no place in it" for name in state_dict if name not in names]


def published_names(state_dict: StateDict, names: Iterable[str], where: str) -> StateDict:
    """Returns a state dict with its arrays under the names of a network's entries.

    Removes a shared prefix from PyTorch's names, renumbers Keras' layers, and adds ":0" to the
    names of TensorFlow.

    Args:
      state_dict: Arrays by name.
      names: The names of the network's entries.
      where: The file's name, for errors.

    Raises:
      UserError: The state dict holds the network more than once.
    """
    names = set(names)
    if not any("/" in name for name in names):
        return without_prefix(state_dict, names, where)
    complete = {
        n if n in names or f"{n}:0" not in names else f"{n}:0": a for n, a in state_dict.items()
    }
    return renumbered(complete, names)


def published_of(network: nn.Module) -> Published | None:
    """Returns the `published` of the network's row in `NETWORKS`; None for any other network."""
    rows = (row for row in NETWORKS.values() if row.config_of(network) is not None)
    row = next(rows, None)
    return None if row is None else row.published


def surplus_entries(network: nn.Module, unused: Iterable[str]) -> list[str]:
    """Returns the names of unused entries that the published network does not have either.

    They belong to something else, such as a deeper variant of the network.

    Args:
      network: A network of `NETWORKS`.
      unused: Names of entries that the network does not use.
    """
    unused = list(unused)
    if not unused:
        return []
    zeros = jax.tree.map(
        lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), abstract_variables(network)
    )
    complete = published_of(network).to_state_dict(network, zeros)
    return [name for name in unused if name not in complete]


def variables_from_published(
    state_dict: StateDict, network: nn.Module, where: str
) -> tuple[dict, StateDict]:
    """Converts a published state dict.

    Args:
      state_dict: Arrays of any float dtype by name, as `published_names` takes them.
      network: A network of `NETWORKS`.
      where: The file's name, for errors.

    Returns:
      The variables, float32, and the entries that the network does not use.

    Raises:
      UserError: Entries are missing or have the wrong shape or dtype; the first ones are listed.
    """
    published = published_of(network)
    names = published.names(network)
    state_dict = published_names(state_dict, names, where)
    check_most_names(state_dict, names, where)
    shapes = published.shapes(network)
    absent = set(published.optional) - state_dict.keys()
    wanted = {name: shape for name, shape in shapes.items() if name not in absent}
    check_entries(state_dict, wanted, where)
    unplaced = _unplaced(state_dict, wanted)
    if unplaced:
        raise UserError(f"{where} does not fit the model: {few_of(unplaced, '; ')}")
    unused = {name: value for name, value in state_dict.items() if name not in shapes}
    return published.to_variables(network, state_dict), unused


def check_entries(state_dict: StateDict, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raises `UserError` unless a state dict has float entries of these names and shapes."""
    check_most_names(state_dict, shapes, where)
    stored = {name: tuple(state_dict[name].shape) for name in shapes if name in state_dict}
    check_shapes(stored, shapes, where)
    check_weights(state_dict, shapes, where)


def read_entries(
    path: str, shapes: Mapping[str, tuple[int, ...]], optional: tuple[str, ...] = ()
) -> StateDict:
    """Reads pretrained weights for a part of a network.

    Args:
      path: A `.pth` or `.safetensors` file, or the address of one; see `addresses`.
      shapes: The shapes of the required entries, by name.
      optional: The names of optional entries.

    Returns:
      All entries of the file, without a shared prefix.

    Raises:
      UserError: The file cannot be read, or entries are missing or have the wrong shape or dtype.
    """
    path = str(located(path).path)
    if not os.path.isfile(path):
        raise UserError(f"there is no file {path!r} with pretrained weights")
    state_dict, _ = read_state_dict(Path(path))
    state_dict = without_prefix(state_dict, [*shapes, *optional], path)
    check_entries(state_dict, shapes, path)
    unused = [name for name in state_dict if name not in (*shapes, *optional)]
    tell(f"{path}: {len(unused)} of its entries are not used by the network")
    return state_dict


def variables_by_path(state_dict: Mapping[str, np.ndarray], network: nn.Module, where: str) -> dict:
    """Returns the variables of a network outside `NETWORKS`; entries are named by their paths.

    Args:
      state_dict: Entries by path, joined by "/".
      network: The network.
      where: The file's name, for errors.

    Raises:
      UserError: The entries do not fit the network.
    """
    wanted = traverse_util.flatten_dict(abstract_variables(network), sep="/")
    stored = {name: value.shape for name, value in state_dict.items()}
    check_shapes(stored, {name: leaf.shape for name, leaf in wanted.items()}, where)
    floats = [name for name, leaf in wanted.items() if jnp.issubdtype(leaf.dtype, jnp.floating)]
    check_weights(state_dict, floats, where)
    wrong = [
        f"{name} is {state_dict[name].dtype}, should be {leaf.dtype}"
        for name, leaf in wanted.items()
        if name not in floats and state_dict[name].dtype != leaf.dtype
    ]
    if wrong:
        raise UserError(f"{where} does not fit the network: {few_of(wrong, '; ')}")
    flat = {name: np.asarray(state_dict[name], leaf.dtype) for name, leaf in wanted.items()}
    return traverse_util.unflatten_dict(flat, sep="/")
