"""The networks that come with the package: one explicit table, and the config of a network.

A config has four groups:

| key | meaning |
|---|---|
| network | name of a row of `NETWORKS` |
| model | its architecture |
| tiling | what can be chosen of how it restores large images |
| numerics.dtype | of the computation, "float32" or "bfloat16"; parameters are float32 |
| numerics.precision | of float32 products on GPU and TPU: "highest", "high" or "default" |
| numerics.remat | recompute blocks in the backward pass: less memory, the same numbers |
"""

import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import ml_collections
from flax import traverse_util

from vitdeblur_jax.models import (
    aifnet,
    dpdnet,
    drbnet,
    gkmnet,
    ifanet,
    kpac,
    mdp,
    nrknet,
    published,
    restormer,
)
from vitdeblur_jax.models.network import NUMERICS, abstract_variables, with_numerics
from vitdeblur_jax.models.vitdeblur import configuration
from vitdeblur_jax.models.vitdeblur import published as vitdeblur_published
from vitdeblur_jax.models.vitdeblur.build import make_vitdeblur, vitdeblur_config
from vitdeblur_jax.utils.config_checks import (
    Rule,
    check_keys,
    check_paths,
    check_values,
    choice,
    flag,
    integer,
    number,
    sequence,
    shown,
    text,
)
from vitdeblur_jax.utils.errors import UserError, nearest

Config = ml_collections.ConfigDict | Mapping[str, Any]

GROUPS = ("network", "model", "tiling", "numerics")
NUMERICS_RULES = {
    "dtype": choice("float32", "bfloat16"),
    "precision": choice("highest", "high", "default"),
    "remat": flag(),
}


class Published(NamedTuple):
    """The published checkpoints of a network.

    Attributes:
      entries: of a network, the name of the entry of each of its variables, by path.
      shapes: of a network, those of the entries that it uses, by name.
      optional: names among them that a checkpoint may lack.
      to_variables: of a network and a state dict with these entries, the variables.
      to_state_dict: of a network and its variables, all that strict loading takes.
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
      create: from the groups "model" and "tiling", and dtype, precision and remat, to the module.
      configurations: "model" and "tiling" by name; the first one is the default.
      config_of: of a module, the groups that it was created from; None if it is not of this row.
      published: its published checkpoints.
    """

    create: Callable[..., nn.Module]
    configurations: Mapping[str, Mapping[str, Any]]
    config_of: Callable[[nn.Module], dict[str, dict] | None]
    published: Published


def _vitdeblur() -> Network:
    return Network(
        create=make_vitdeblur,
        configurations={
            name: {"model": make().to_dict(), "tiling": configuration.TILINGS[name]}
            for name, make in configuration.CONFIGURATIONS.items()
        },
        config_of=vitdeblur_config,
        published=Published(
            vitdeblur_published.published_names,
            vitdeblur_published.published_shapes,
            (vitdeblur_published.POSITION,),
            vitdeblur_published.from_published,
            vitdeblur_published.to_published,
        ),
    )


def _one_class(module, cls: type[nn.Module]) -> Network:
    """Returns the row of a file with one class, CONFIGURATIONS and `published_entries`."""
    usual = {
        field.name: field.default
        for field in dataclasses.fields(cls)
        if field.name not in ("parent", "name", *NUMERICS)
    }
    hints = typing.get_type_hints(cls)
    rules = {name: _rule_like(value, hints[name]) for name, value in usual.items()}

    def create(model, tiling, **numerics):
        check_paths(model, rules, "model.")
        check_values(model, rules, "model.")
        check_paths(tiling, (), "tiling.")
        network = cls(**{name: _as_tuple(value) for name, value in model.items()})
        return with_numerics(network, **numerics)

    def config_of(network):
        if type(network) is not cls:
            return None
        return {"model": {name: getattr(network, name) for name in usual}, "tiling": {}}

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

    configurations = {
        name: {"model": usual | changes, "tiling": {}}
        for name, changes in module.CONFIGURATIONS.items()
    }
    checkpoints = Published(entries, shapes, (), to_variables, to_state_dict)
    return Network(create, configurations, config_of, checkpoints)


def _rule_like(value: Any, hint: Any) -> Rule:
    """Returns the rule for values of the kind of a class's default, which the hint describes."""
    match value:
        case bool():
            return flag()
        case int():
            return integer(0, 2**16)
        case float():
            return number()
        case str():
            return text()
        case tuple():
            inner = typing.get_args(hint)
            any_number = inner[-1] is Ellipsis
            return sequence(
                _rule_like(value[0], inner[0]), length=None if any_number else len(value)
            )
    raise TypeError(f"no rule for an attribute like {value!r}")


def _as_tuple(value):
    return tuple(map(_as_tuple, value)) if isinstance(value, list | tuple) else value


NETWORKS: dict[str, Network] = {
    "vitdeblur": _vitdeblur(),
    "dpdnet": _one_class(dpdnet, dpdnet.DPDNet),
    "aifnet": _one_class(aifnet, aifnet.AIFNet),
    "mdp": _one_class(mdp, mdp.MDP),
    "ifanet": _one_class(ifanet, ifanet.IFANet),
    "drbnet": _one_class(drbnet, drbnet.DRBNet),
    "restormer": _one_class(restormer, restormer.Restormer),
    "nrknet": _one_class(nrknet, nrknet.NRKNet),
    "gkmnet": _one_class(gkmnet, gkmnet.GKMNet),
    "kpac": _one_class(kpac, kpac.KPAC),
}


def configuration_names() -> list[str]:
    """Returns the names of all configurations of all networks."""
    return [name for row in NETWORKS.values() for name in row.configurations]


def named_config(name: str) -> ml_collections.ConfigDict:
    """Returns the config of a network by the name of its configuration, such as "base".

    Raises:
      UserError: there is none of that name; the nearest is named.
    """
    for network, row in NETWORKS.items():
        if name in row.configurations:
            groups = row.configurations[name]
            return ml_collections.ConfigDict(
                {"network": network, **groups, "numerics": dict(NUMERICS)}
            )
    names = configuration_names()
    raise UserError(
        f"there is no network {name!r}{nearest(name, names)}; there are {', '.join(names)}"
    )


def complete_config(values: Config) -> ml_collections.ConfigDict:
    """Returns a config; what `values` lacks is that of the network's first configuration.

    Args:
      values: has the key "network", and any of the others.

    Raises:
      UserError: an unknown key (the nearest right one is named), or values that do not fit.
    """
    check_keys(values, GROUPS, "a network's config")
    name = values.get("network")
    if not isinstance(name, str) or name not in NETWORKS:
        raise UserError(
            f"there is no network {shown(name)}{nearest(str(name), NETWORKS)}; "
            f"there are {', '.join(NETWORKS)}"
        )
    config = named_config(next(iter(NETWORKS[name].configurations)))
    for group in GROUPS[1:]:
        _update(config, group, values.get(group, {}))
    create_network(config)
    return config


def _update(config, key, values):
    if not isinstance(values, Mapping | ml_collections.ConfigDict):
        raise UserError(f"{key} is {shown(values)}; it must be a group of keys")
    for name, value in values.items():
        old = config[key].get(name)
        if isinstance(old, ml_collections.ConfigDict):
            _update(config[key], name, value)
        else:
            with config[key].ignore_type(), config[key].unlocked():
                config[key][name] = tuple(value) if isinstance(value, list) else value


def create_network(config: Config) -> nn.Module:
    """Returns the network that a config describes.

    Args:
      config: has the four groups; other keys are ignored.

    Raises:
      UserError: an unknown key, or values that do not fit.
    """
    name, numerics = config["network"], config["numerics"]
    if not isinstance(name, str) or name not in NETWORKS:
        raise UserError(
            f"there is no network {shown(name)}{nearest(str(name), NETWORKS)}; "
            f"there are {', '.join(NETWORKS)}"
        )
    check_paths(numerics, NUMERICS_RULES, "numerics.")
    check_values(numerics, NUMERICS_RULES, "numerics.")
    return NETWORKS[name].create(config["model"], config["tiling"], **numerics)


def create(name: str, **overrides: Any) -> nn.Module:
    """Returns an untrained network.

    Args:
      name: of a configuration, such as "base"; see `configuration_names`.
      **overrides: keys of its config's "model", "tiling" or "numerics" with other values; of a
        group of keys, such as `decoder={"depth": 3}`, those that change.

    Raises:
      UserError: an unknown name or key, or values that do not fit.
    """
    config = named_config(name)
    for key, value in overrides.items():
        group = next((group for group in GROUPS[1:] if key in config[group]), "model")
        _update(config, group, {key: value})
    return create_network(config)


def config_of(network: nn.Module) -> ml_collections.ConfigDict | None:
    """Returns the config of a network of the package; None for any other module."""
    for name, row in NETWORKS.items():
        groups = row.config_of(network)
        if groups is not None:
            found = {key: _attribute(network, key) for key in NUMERICS}
            numerics = {k: NUMERICS[k] if value is None else value for k, value in found.items()}
            return ml_collections.ConfigDict({"network": name, **groups, "numerics": numerics})
    return None


def _attribute(module, key):
    """Returns an attribute of the module, or of the first module given to it that has it."""
    names = [field.name for field in dataclasses.fields(module)]
    if key in names:
        return getattr(module, key)
    parts = [getattr(module, name) for name in names if name not in ("parent", "name")]
    found = [_attribute(part, key) for part in parts if isinstance(part, nn.Module)]
    return next((value for value in found if value is not None), None)
