"""Which network a published checkpoint belongs to, by the names and shapes of its entries."""

import os
from collections.abc import Mapping
from pathlib import Path

import flax.linen as nn

from vitdeblur_jax.checkpoints.state_dicts import read_state_dict
from vitdeblur_jax.models.networks import (
    NETWORKS,
    Published,
    configuration_names,
    create_network,
    named_config,
)
from vitdeblur_jax.models.published import StateDict, check_weights, without_prefix
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.output import tell
from vitdeblur_jax.utils.shapes import check_most_names, check_shapes


def recognized_network(state_dict: StateDict, where: str) -> nn.Module:
    """Returns the network of the named configuration whose entries a state dict has.

    Of networks that share all names the one whose shapes fit; the nearest one if none fits.

    Args:
      state_dict: arrays by name, all behind the same prefix or none.
      where: the file's name, for errors.
    """
    best, most = None, -1.0
    for name in configuration_names():
        network = create_network(named_config(name))
        published = published_of(network)
        names = published.names(network)
        there = without_prefix(state_dict, names, where)
        share = sum(name in there for name in names) / len(names)
        if share == 1:
            shapes = published.shapes(network)
            share += sum(there[name].shape == shape for name, shape in shapes.items()) / len(names)
        if share > most:
            best, most = network, share
    return best


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
      state_dict: the published names, all behind the same prefix or none; any float dtype.
      network: one of the package.
      where: the file's name, for errors.

    Raises:
      UserError: entries are missing or of another shape or dtype; the first ones are named.
    """
    published = published_of(network)
    names = published.names(network)
    state_dict = without_prefix(state_dict, names, where)
    check_most_names(state_dict, names, where)
    shapes = published.shapes(network)
    absent = set(published.optional) - state_dict.keys()
    wanted = {name: shape for name, shape in shapes.items() if name not in absent}
    check_entries(state_dict, wanted, where)
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
