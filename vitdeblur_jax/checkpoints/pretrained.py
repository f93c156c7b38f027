"""A model with its variables, and its configuration as text."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping

import jax
import ml_collections
import numpy as np
from flax import traverse_util

from vitdeblur_jax.distributed.sharding import local_mesh, replicated
from vitdeblur_jax.models import ViTDeblur
from vitdeblur_jax.models.vitdeblur.configuration import (
    base,
    complete_configuration,
    parameter_count,
)
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.json_files import parse_json


@dataclasses.dataclass(frozen=True, repr=False)
class Pretrained:
    """A model with its variables.

    Attributes:
      model: the Linen module, to be used as `model.apply(variables, image)`.
      variables: the collections "params", "batch_stats" and "position_embedding", float32.
      source: where it came from.
      unused: entries of a reference checkpoint that its network never uses; written back on export.
    """

    model: ViTDeblur
    variables: dict
    source: str
    unused: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def config(self) -> ml_collections.ConfigDict:
        """The model's configuration: its attributes as plain values."""
        return configuration_of(self.model)

    def __repr__(self) -> str:
        network, size = type(self.model).__name__, parameter_count(self.model)
        return f"<Pretrained {network}, {size / 1e6:.1f} M values, from {self.source!r}>"


def on_local_devices(pretrained: Pretrained) -> Pretrained:
    """Returns it with its variables on all devices of this process, to be copied there once."""
    variables = jax.device_put(pretrained.variables, replicated(local_mesh()))
    return dataclasses.replace(pretrained, variables=variables)


def digest(variables: dict) -> str:
    """Returns the SHA-256 of all variables: names, shapes and float32 values, not the file."""
    flat = traverse_util.flatten_dict(variables, sep="/")
    total = hashlib.sha256()
    for name in sorted(flat):
        value = np.ascontiguousarray(flat[name], np.float32)
        total.update(f"{name} {value.shape} ".encode())
        total.update(value)
    return total.hexdigest()


def configuration_to_json(config: ml_collections.ConfigDict) -> str:
    """Returns the configuration as one line of JSON."""
    return json.dumps(config.to_dict(), sort_keys=True)


def configuration_from_json(text: str, where: str) -> ml_collections.ConfigDict:
    """Returns the configuration that `configuration_to_json` wrote; `where` is for errors."""
    return checked_configuration(parse_json(text, f"{where}: its configuration"), where)


def checked_configuration(values: dict, where: str) -> ml_collections.ConfigDict:
    """Returns the values that were read from `where` as a configuration.

    Raises:
      UserError: an unknown key, or values that do not fit.
    """
    try:
        return complete_configuration(values)
    except UserError as error:
        raise UserError(f"{where}: its configuration cannot be used ({error})") from error


def configuration_of(model: ViTDeblur) -> ml_collections.ConfigDict:
    """Returns the model's attributes as a configuration, without those that a subclass adds."""
    return complete_configuration({key: getattr(model, key) for key in base()})
