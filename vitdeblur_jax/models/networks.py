"""The table of the networks that come with the package, and their configs.

A config has four groups:

| key | meaning |
|---|---|
| network | name of a row of `NETWORKS` |
| model | the architecture |
| tiling | options of the tiling, for networks that have some |
| numerics.dtype | dtype of the computation, "float32" or "bfloat16"; parameters are float32 |
| numerics.precision | of float32 products on GPU and TPU: "highest", "high" or "default" |
| numerics.remat | recompute blocks in the backward pass: less memory, the same result |
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import ml_collections

from vitdeblur_jax.models import (
    aifnet,
    dpdnet,
    drbnet,
    gkmnet,
    ifanet,
    kpac,
    mdp,
    nrknet,
    restormer,
)
from vitdeblur_jax.models.network import NUMERICS
from vitdeblur_jax.models.rows import Network, published_by_entries, row_of_class
from vitdeblur_jax.models.vitdeblur import configuration
from vitdeblur_jax.models.vitdeblur import published as vitdeblur_published
from vitdeblur_jax.models.vitdeblur.build import make_vitdeblur, vitdeblur_config
from vitdeblur_jax.utils.config_checks import (
    check_keys,
    check_paths,
    check_values,
    choice,
    flag,
    shown,
)
from vitdeblur_jax.utils.errors import UserError, nearest

Config = ml_collections.ConfigDict | Mapping[str, Any]

GROUPS = ("network", "model", "tiling", "numerics")
NUMERICS_RULES = {
    "dtype": choice("float32", "bfloat16"),
    "precision": choice("highest", "high", "default"),
    "remat": flag(),
}


def _vitdeblur() -> Network:
    return Network(
        create=make_vitdeblur,
        configurations={
            name: {"model": make().to_dict(), "tiling": configuration.TILINGS[name]}
            for name, make in configuration.CONFIGURATIONS.items()
        },
        config_of=vitdeblur_config,
        published=published_by_entries(vitdeblur_published)._replace(
            optional=(vitdeblur_published.POSITION,),
            to_variables=vitdeblur_published.from_published,
            to_state_dict=vitdeblur_published.to_published,
        ),
    )


NETWORKS: dict[str, Network] = {
    "vitdeblur": _vitdeblur(),
    "dpdnet": row_of_class(dpdnet, dpdnet.DPDNet),
    "aifnet": row_of_class(aifnet, aifnet.AIFNet),
    "mdp": row_of_class(mdp, mdp.MDP),
    "ifanet": row_of_class(ifanet, ifanet.IFANet),
    "drbnet": row_of_class(drbnet, drbnet.DRBNet),
    "restormer": row_of_class(restormer, restormer.Restormer),
    "nrknet": row_of_class(nrknet, nrknet.NRKNet),
    "gkmnet": row_of_class(gkmnet, gkmnet.GKMNet),
    "kpac": row_of_class(kpac, kpac.KPAC),
}


def configuration_names() -> list[str]:
    """Returns the names of all configurations of all networks."""
    return [name for row in NETWORKS.values() for name in row.configurations]


def named_config(name: str) -> ml_collections.ConfigDict:
    """Returns the config of a configuration, such as "base".

    Raises:
      UserError: There is no configuration with this name.
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
    """Completes a config with the defaults of the network's first configuration.

    Args:
      values: A config with the key "network" and any other keys.

    Raises:
      UserError: A key is unknown or a value is invalid.
    """
    check_keys(values, GROUPS, "a network's config")
    row = _row(values.get("network"))
    config = named_config(next(iter(row.configurations)))
    for group in GROUPS[1:]:
        _update(config, group, values.get(group, {}))
    return config_of(create_network(config))


def _update(config, group, values, prefix=""):
    path = f"{prefix}{group}"
    if not isinstance(values, Mapping | ml_collections.ConfigDict):
        raise UserError(f"{path} is {shown(values)}; it must be a group of keys")
    known = config[group].to_dict()
    names = [f"{path}.{key}" for key in known]
    check_keys([f"{path}.{key}" for key in values], names, "the config")
    for key, value in values.items():
        if isinstance(known[key], dict):
            _update(config[group], key, value, f"{path}.")
        elif isinstance(value, Mapping | ml_collections.ConfigDict):
            raise UserError(f"{path}.{key} is {shown(value)}; it must not be a group of keys")
        else:
            with config[group].ignore_type():
                config[group][key] = value


def create_network(config: Config) -> nn.Module:
    """Creates a network from its config.

    Args:
      config: A config with the four groups; other keys are ignored.

    Raises:
      UserError: A key in a group is unknown or a value is invalid.
    """
    row, numerics = _row(config["network"]), config["numerics"]
    check_paths(numerics, NUMERICS_RULES, "numerics.")
    check_values(numerics, NUMERICS_RULES, "numerics.")
    return row.create(config["model"], config["tiling"], **numerics)


def _row(name: Any) -> Network:
    if not isinstance(name, str) or name not in NETWORKS:
        raise UserError(
            f"there is no network {shown(name)}{nearest(str(name), NETWORKS)}; "
            f"there are {', '.join(NETWORKS)}"
        )
    return NETWORKS[name]


def create(name: str, **overrides: Any) -> nn.Module:
    """Creates a network by the name of its configuration.

    Args:
      name: The name of a configuration, such as "base"; see `configuration_names`.
      **overrides: Values for keys in the config's groups "model", "tiling" and "numerics". For a
        nested group, such as `decoder={"depth": 3}`, only the keys that change.

    Raises:
      UserError: The name or a key is unknown, or a value is invalid.
    """
    config = named_config(name)
    for key, value in overrides.items():
        group = next((group for group in GROUPS[1:] if key in list(config[group])), "model")
        _update(config, group, {key: value})
    return create_network(config)


def config_of(network: nn.Module) -> ml_collections.ConfigDict | None:
    """Returns the config of a network in `NETWORKS`; None for any other module."""
    for name, row in NETWORKS.items():
        groups = row.config_of(network)
        if groups is not None:
            found = {key: _attribute(network, key) for key in NUMERICS}
            numerics = {k: NUMERICS[k] if value is None else value for k, value in found.items()}
            return ml_collections.ConfigDict({"network": name, **groups, "numerics": numerics})
    return None


def _attribute(module, key):
    """Returns an attribute of the module, or of the first submodule attribute that has it."""
    names = [field.name for field in dataclasses.fields(module)]
    if key in names:
        return getattr(module, key)
    parts = [getattr(module, name) for name in names if name not in ("parent", "name")]
    found = [_attribute(part, key) for part in parts if isinstance(part, nn.Module)]
    return next((value for value in found if value is not None), None)
