"""The rows of the table of networks, see `vitdeblur_jax.models.networks`."""

import dataclasses
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import flax.linen as nn
from flax import traverse_util

from vitdeblur_jax.models import published
from vitdeblur_jax.models.network import NUMERICS, abstract_variables, with_numerics
from vitdeblur_jax.utils.config_checks import check_paths, check_values


class Published(NamedTuple):
    """The published checkpoints of a network.

    Attributes:
      entries: Takes a network; returns the name of each variable's entry, by path.
      shapes: Takes a network; returns the shapes of the entries that it uses, by name.
      optional: The names of entries that a checkpoint may lack.
      to_variables: Takes a network and a state dict with these entries; returns the variables.
      to_state_dict: Takes a network and its variables; returns all entries that strict loading
        requires.
    """

    entries: Callable[[nn.Module], dict[published.Path, str]]
    shapes: Callable[[nn.Module], dict[str, tuple[int, ...]]]
    optional: tuple[str, ...]
    to_variables: Callable[[nn.Module, published.StateDict], dict]
    to_state_dict: Callable[[nn.Module, dict], dict]

    def names(self, network: nn.Module) -> list[str]:
        """Returns the names of the entries that the network uses; traces nothing."""
        return list(self.entries(network).values())

    def paths(self, network: nn.Module) -> list[str]:
        """Returns the paths of the network's variables, joined by "/"; traces nothing."""
        return ["/".join(path) for path in self.entries(network)]


class Network(NamedTuple):
    """A row of the table.

    Attributes:
      create: Takes the groups "model" and "tiling", and dtype, precision and remat; returns the
        module.
      configurations: The groups "model" and "tiling" by name; the first one is the default.
      config_of: Takes a module; returns the groups that it was created from, or None if it does not
        belong to this row.
      published: The published checkpoints.
    """

    create: Callable[..., nn.Module]
    configurations: Mapping[str, Mapping[str, Any]]
    config_of: Callable[[nn.Module], dict[str, dict] | None]
    published: Published


def row_of_class(module: ModuleType, cls: type[nn.Module]) -> Network:
    """Returns the row of a network whose config is the attributes of one class.

    Args:
      module: The file of the class. It has `CONFIGURATIONS`, which maps names to the attributes
        that differ from their defaults, `RULES`, which maps each attribute to its rule, and
        `published_entries(network)`. The rules bound the size of
        the network, so that a config from a file cannot make tracing slow. The file may have
        `published_unused(network)`, the entries that strict loading requires but the network does
        not use.
      cls: The class. Each attribute has a default.
    """
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(cls)
        if field.name not in ("parent", "name", *NUMERICS)
    }

    def create(model, tiling, **numerics):
        check_paths(model, module.RULES, "model.")
        check_values(model, module.RULES, "model.")
        check_paths(tiling, (), "tiling.")
        network = cls(**{name: _as_tuple(value) for name, value in model.items()})
        return with_numerics(network, **numerics)

    def config_of(network):
        if type(network) is not cls:
            return None
        return {"model": {name: getattr(network, name) for name in defaults}, "tiling": {}}

    configurations = {
        name: {"model": defaults | changes, "tiling": {}}
        for name, changes in module.CONFIGURATIONS.items()
    }
    return Network(create, configurations, config_of, published_by_entries(module))


def published_by_entries(module: ModuleType) -> Published:
    """Returns the published checkpoints of a network, by the functions of its file.

    Args:
      module: It has `published_entries(network)`, and may have `published_unused(network)`; see
        `row_of_class`.
    """

    def entries(network):
        return {path: entry.name for path, entry in module.published_entries(network).items()}

    def shapes(network):
        flat = traverse_util.flatten_dict(abstract_variables(network))
        ours = {path: leaf.shape for path, leaf in flat.items()}
        return published.published_shapes(ours, module.published_entries(network))

    def to_variables(network, state_dict):
        return published.from_published(state_dict, module.published_entries(network))

    def to_state_dict(network, variables):
        unused = getattr(module, "published_unused", lambda network: {})(network)
        return unused | published.to_published(variables, module.published_entries(network))

    return Published(entries, shapes, (), to_variables, to_state_dict)


def _as_tuple(value):
    return tuple(map(_as_tuple, value)) if isinstance(value, list | tuple) else value
