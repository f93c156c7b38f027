"""A network with its variables, and the description of a network in a checkpoint."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import ml_collections
import numpy as np
from flax import traverse_util

from vitdeblur_jax.distributed.sharding import local_mesh, replicated
from vitdeblur_jax.models.network import NUMERICS
from vitdeblur_jax.models.networks import NETWORKS, complete_config, config_of
from vitdeblur_jax.utils.config_checks import shown
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.json_files import parse_json


@dataclasses.dataclass(frozen=True, repr=False)
class Pretrained:
    """A network with its variables.

    Attributes:
      model: The Linen module; call `model.apply(variables, image)`.
      variables: Its collections, such as "params" and "batch_stats"; float32.
      source: The path it was loaded from, or a description.
      unused: The entries of a published checkpoint that the network never uses. They are kept when
        it is converted back.
    """

    model: nn.Module
    variables: dict
    source: str
    unused: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def config(self) -> ml_collections.ConfigDict | None:
        """The network's config, or None for a network outside `NETWORKS`."""
        return config_of(self.model)

    def __repr__(self) -> str:
        size = sum(leaf.size for leaf in jax.tree.leaves(self.variables))
        name = type(self.model).__name__
        return f"<Pretrained {name}, {size / 1e6:.1f} M values, from {self.source!r}>"


def check_pretrained(value: Any, caller: str) -> None:
    """Raises `UserError` unless an argument is a `Pretrained`; `caller` names the function."""
    if not isinstance(value, Pretrained):
        raise UserError(
            f"{caller} is given {shown(value)} in place of a Pretrained, which load_pretrained "
            "returns; of your own, it is Pretrained(network, variables, source)"
        )


def on_local_devices(pretrained: Pretrained) -> Pretrained:
    """Copies the variables to all devices of this process, so that later calls need no copies."""
    variables = jax.device_put(pretrained.variables, replicated(local_mesh()))
    return dataclasses.replace(pretrained, variables=variables)


def digest(variables: dict) -> str:
    """Returns the SHA-256 of the names, shapes and float32 values of all variables."""
    flat = traverse_util.flatten_dict(variables, sep="/")
    total = hashlib.sha256()
    for name in sorted(flat):
        value = np.ascontiguousarray(flat[name], np.float32)
        total.update(f"{name} {value.shape} ".encode())
        total.update(value)
    return total.hexdigest()


def saved_config(network: nn.Module) -> dict[str, Any]:
    """Returns the description of a network that is saved in a checkpoint, as plain values.

    This is the network's config. For a network outside `NETWORKS` it is the name of the class and
    its attributes with plain values, without numerics.
    """
    config = config_of(network)
    if config is not None:
        return config.to_dict()
    names = [field.name for field in dataclasses.fields(network)]
    values = {n: getattr(network, n) for n in names if n not in ("parent", "name", *NUMERICS)}
    plain = {name: _as_lists(value) for name, value in values.items() if _is_plain(value)}
    return {"network": type(network).__qualname__, "attributes": plain}


def _is_plain(value):
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _as_lists(value):
    return [_as_lists(item) for item in value] if isinstance(value, tuple | list) else value


def config_to_json(network: nn.Module) -> str:
    """Returns `saved_config` as one line of JSON."""
    return json.dumps(saved_config(network), sort_keys=True)


def config_from_json(text: str, where: str) -> ml_collections.ConfigDict | dict:
    """Parses and checks what `config_to_json` wrote; see `checked_config`."""
    return checked_config(parse_json(text, f"{where}: its configuration"), where)


def checked_config(values: dict, where: str) -> ml_collections.ConfigDict | dict:
    """Checks the description of a network in a checkpoint.

    Args:
      values: The output of `saved_config`.
      where: The checkpoint's name, for errors.

    Returns:
      The config; for a network outside `NETWORKS` the values as they are.

    Raises:
      UserError: A key is unknown or a value is invalid.
    """
    name, attributes = values.get("network"), values.get("attributes")
    is_own = isinstance(name, str) and name not in NETWORKS and isinstance(attributes, dict)
    if is_own and set(values) == {"network", "attributes"}:
        return values
    try:
        return complete_config(values)
    except UserError as error:
        raise UserError(f"{where}: its configuration cannot be used ({error})") from error


def check_same_network(
    network: nn.Module, saved: ml_collections.ConfigDict | dict | None, where: str
) -> None:
    """Raises `UserError` if a checkpoint belongs to another network.

    Shapes are not enough: for example, they do not depend on the number of heads.

    Args:
      network: The network to load for.
      saved: The output of `checked_config`; None if the checkpoint has no description.
      where: The checkpoint's name, for errors.
    """
    differences = network_differences(network, saved)
    if differences:
        raise UserError(
            f"{where} is of another network: {'; '.join(differences)}. Load it with that network. "
            "To use its variables in yours, save dataclasses.replace(pretrained, model=network)"
        )


def network_differences(
    network: nn.Module, saved: ml_collections.ConfigDict | dict | None
) -> list[str]:
    """Returns what differs between a network and the one that a checkpoint describes.

    Args:
      network: The network.
      saved: The output of `checked_config`; None if the checkpoint has no description.

    Returns:
      A text for each difference, such as "its width is 8, and yours is 12".
    """
    wanted = config_of(network)
    if saved is None:
        return []
    is_own = isinstance(saved, dict)
    if is_own != (wanted is None) or (is_own and saved["network"] != type(network).__qualname__):
        theirs = saved["network"]
        ours = type(network).__qualname__ if wanted is None else wanted.network
        kinds = ["network" if described else "class" for described in (not is_own, wanted)]
        return [f"its {kinds[0]} is {shown(theirs)}, and your {kinds[1]} is {shown(ours)}"]
    if is_own:
        ours, theirs = saved_config(network)["attributes"], saved["attributes"]
        ours = {key: value for key, value in ours.items() if key in theirs}
    else:
        ours, theirs = (_flat(config) for config in (wanted, saved))
    return [
        f"its {key} is {shown(theirs.get(key))}, and yours is {shown(value)}"
        for key, value in ours.items()
        if theirs.get(key) != value
    ]


def _flat(config):
    """Returns the values that must agree, by dotted key. The shapes already check `views`."""
    model = config.model.to_dict()
    model.pop("views", None)
    return traverse_util.flatten_dict({"network": config.network, "model": model}, sep=".")
