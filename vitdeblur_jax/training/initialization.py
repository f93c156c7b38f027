"""Initial variables: random, from a checkpoint, or by an option of the network."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import ml_collections
from flax import traverse_util
from jaxtyping import Array

from vitdeblur_jax.checkpoints.addresses import located
from vitdeblur_jax.checkpoints.load_save import load_pretrained
from vitdeblur_jax.checkpoints.orbax_folders import chosen_checkpoint
from vitdeblur_jax.checkpoints.pretrained import network_differences, saved_config
from vitdeblur_jax.checkpoints.recognition import read_entries
from vitdeblur_jax.distributed.processes import is_first
from vitdeblur_jax.models.network import initial_variables
from vitdeblur_jax.models.networks import config_of
from vitdeblur_jax.utils.buckets import reachable
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.output import tell

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
        return traverse_util.flatten_dict(_of_checkpoint(config.initial.checkpoint, network))
    if not hasattr(network, "initial_files"):
        return {}
    return network.initial_files(config.initial.to_dict(), read_entries)


def _of_checkpoint(source, network):
    """Returns the variables of a checkpoint of the network, or of one that it extends."""
    # Resolved once: both loads would print what they choose.
    path = chosen_checkpoint(reachable(located(source).path))
    try:
        return load_pretrained(path, network).variables
    except UserError as error:
        extends = network.extends() if hasattr(network, "extends") else None
        if extends is None:
            raise
        smaller, extended = extends
        try:
            pretrained = load_pretrained(path, smaller)
        except UserError:
            raise error from None
    if is_first():
        differences = network_differences(network, config_of(smaller) or saved_config(smaller))
        start = "its variables are extended without changing the output"
        tell(f"{pretrained.source}: {'; '.join([*differences, start])}")
    return extended(pretrained.variables)


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
