"""Which network a published checkpoint belongs to, by the names and shapes of its entries."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import flax.linen as nn

from vitdeblur_jax.checkpoints.keras_files import renumbered
from vitdeblur_jax.checkpoints.state_dicts import read_state_dict
from vitdeblur_jax.models.networks import (
    NETWORKS,
    Published,
    configuration_names,
    create_network,
    named_config,
)
from vitdeblur_jax.models.published import StateDict, check_weights, position_name, without_prefix
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.output import tell
from vitdeblur_jax.utils.shapes import (
    check_most_names,
    check_shapes,
    few_of,
    shape_differences,
)


def recognized_network(state_dict: StateDict, where: str) -> nn.Module:
    """Returns the network of the first configuration that fits all entries of a state dict.

    Names come first: only networks whose names are all there are traced, for their shapes.

    Args:
      state_dict: arrays by name, as `published_names` takes them.
      where: the file's name, for errors.

    Raises:
      UserError: no configuration fits. The nearest is named, and what does not fit.
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
        f"{where} fits no network; the nearest is {nearest!r}, but {len(faults)} entries differ: "
        f"{few_of(faults, '; ')}"
    )


def _faults(state_dict: StateDict, network: nn.Module) -> tuple[list[str], int]:
    """Returns what does not fit a network, and how many of its entries' names are there."""
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
    """Returns what must not be there: in a checkpoint without names, all that is left over."""
    if position_name(0) not in names:
        return []
    return [f"{name} has no place in it" for name in state_dict if name not in names]


def published_names(state_dict: StateDict, names: Iterable[str], where: str) -> StateDict:
    """Returns a state dict's arrays under the names that a network's entries have.

    Of PyTorch's names a common prefix is removed. Keras' layers are renumbered, and TensorFlow's
    names end in ":0".

    Args:
      state_dict: arrays by name.
      names: of the network's entries.
      where: the file's name, for errors.

    Raises:
      UserError: the network is there more than once.
    """
    names = set(names)
    if not any("/" in name for name in names):
        return without_prefix(state_dict, names, where)
    complete = {
        n if n in names or f"{n}:0" not in names else f"{n}:0": a for n, a in state_dict.items()
    }
    return renumbered(complete, names)


def published_of(network: nn.Module) -> Published | None:
    """Returns the published checkpoints of the network's row in the table; None without a row."""
    rows = (row for row in NETWORKS.values() if row.config_of(network) is not None)
    row = next(rows, None)
    return None if row is None else row.published


def variables_from_published(
    state_dict: StateDict, network: nn.Module, where: str
) -> tuple[dict, StateDict]:
    """Returns the variables (float32) and the entries of a state dict that the network ignores.

    Args:
      state_dict: as `published_names` takes it; any float dtype.
      network: one of the package.
      where: the file's name, for errors.

    Raises:
      UserError: entries are missing or of another shape or dtype; the first ones are named.
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
    """Raises `UserError` unless a state dict has entries of these names and shapes, of floats."""
    check_most_names(state_dict, shapes, where)
    stored = {name: tuple(state_dict[name].shape) for name in shapes if name in state_dict}
    check_shapes(stored, shapes, where)
    check_weights(state_dict, shapes, where)


def read_entries(
    path: str, shapes: Mapping[str, tuple[int, ...]], optional: tuple[str, ...] = ()
) -> StateDict:
    """Reads the entries of pretrained weights, which are part of a network.

    Args:
      path: a `.pth` file, or the same as `.safetensors`.
      shapes: of the entries that must be there, by name.
      optional: names of others that may be there.

    Returns:
      All entries of the file, without a prefix before the names.

    Raises:
      UserError: the file cannot be read, or entries are missing or of another shape or dtype.
    """
    if not os.path.isfile(path):
        raise UserError(f"there is no file {path!r} with pretrained weights")
    state_dict, _ = read_state_dict(Path(path))
    state_dict = without_prefix(state_dict, [*shapes, *optional], path)
    check_entries(state_dict, shapes, path)
    unused = [name for name in state_dict if name not in (*shapes, *optional)]
    tell(f"{path}: {len(unused)} of its entries have no place in the network")
    return state_dict
