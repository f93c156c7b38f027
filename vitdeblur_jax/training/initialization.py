"""Initial variables: random, from a checkpoint, or by an option of the network."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import ml_collections
from flax import traverse_util
from jaxtyping import Array

from vitdeblur_jax.checkpoints.load_save import load_pretrained
from vitdeblur_jax.checkpoints.recognition import read_entries
from vitdeblur_jax.models.network import initial_variables
from vitdeblur_jax.utils.errors import UserError

Paths = dict[tuple[str, ...], Array]


def initial_options(network: nn.Module) -> Mapping[str, str | bool]:
    """Returns the keys of `config.initial` other than "checkpoint", with their defaults.

    A network defines them as INITIAL_OPTIONS: strings, which name files, and flags.
    """
    return getattr(network, "INITIAL_OPTIONS", {})


def check_initial(config: ml_collections.ConfigDict, network: nn.Module) -> None:
    """Raises `UserError` for options of `config.initial` that cannot be combined."""
    options = {key: config.initial[key] for key in initial_options(network)}
    if config.initial.checkpoint and any(options.values()):
        names = [f"initial.{key}" for key in options]
        raise UserError(
            f"initial.checkpoint sets all values; unset {', '.join(names[:-1])} and {names[-1]}"
        )
    if hasattr(network, "check_initial"):
        network.check_initial(options)


def given_variables(config: ml_collections.ConfigDict, network: nn.Module) -> Paths:
    """Returns the initial variables that the training config takes from files, by path.

    Raises:
      UserError: A checkpoint or pretrained weights cannot be read or do not fit the network.
    """
    if config.initial.checkpoint:
        variables = load_pretrained(config.initial.checkpoint, network).variables
        return traverse_util.flatten_dict(variables)
    if not hasattr(network, "initial_files"):
        return {}
    return network.initial_files(config.initial.to_dict(), read_entries)


def starting_variables(config: ml_collections.ConfigDict, network: nn.Module, given: Paths) -> dict:
    """Returns the initial variables of a run; can be jitted.

    Args:
      config: The training config.
      network: The network to train.
      given: The result of `given_variables`. Other variables are random.
    """
    random = initial_variables(network, config.seed)
    variables = traverse_util.unflatten_dict(traverse_util.flatten_dict(random) | given)
    if not config.initial.checkpoint and hasattr(network, "initialized"):
        variables = network.initialized(variables, config.initial.to_dict())
    return jax.tree.map(jax.numpy.asarray, variables)
