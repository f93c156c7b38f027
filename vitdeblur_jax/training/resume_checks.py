"""Checks before a run is resumed: its steps, its network and its data are those it started with."""

import json
from pathlib import Path

import flax.linen as nn
import ml_collections

from vitdeblur_jax.checkpoints.pretrained import saved_config
from vitdeblur_jax.models.networks import NETWORKS
from vitdeblur_jax.training.data_sets import training_sets
from vitdeblur_jax.utils.config_checks import shown
from vitdeblur_jax.utils.errors import UserError


def check_steps(folder: Path, step: int, config: ml_collections.ConfigDict) -> None:
    """Raises `UserError` if the run is past the steps of the config."""
    if step > config.num_steps:
        raise UserError(
            f"num_steps is {config.num_steps}, but the run in {folder} is already at step {step}; "
            "raise num_steps, or choose another --workdir"
        )


def check_network(folder: Path, resume_state: dict, network: nn.Module) -> None:
    """Raises `UserError` if the run started with another network, which may have equal shapes."""
    begun = resume_state.get("network", {})
    if begun.get("network") in NETWORKS:
        return  # the config of the run describes it
    now = json.loads(json.dumps(saved_config(network)))
    if begun and begun != now:
        raise UserError(
            f"the run in {folder} was started with another network, {shown(begun)}, not "
            f"{shown(now)}; choose another --workdir"
        )


def check_data(
    folder: Path, resume_state: dict, found: dict, config: ml_collections.ConfigDict
) -> None:
    """Raises `UserError` if the data differ, because the batches depend on the whole data set.

    Args:
      folder: The run's folder.
      resume_state: Saved with the checkpoint.
      found: The fingerprints of the data now, by data set.
      config: The training config.
    """
    begun = resume_state.get("data", found)
    for data_set in training_sets(config):
        before, now = begun[data_set.path], found[data_set.path]
        if before == now:
            continue
        what = "different files"
        if before["examples"] != now["examples"]:
            what = f"{now['examples']} training examples, not {before['examples']}"
        raise UserError(
            f"{data_set.settings.root} is not the data that the run in {folder} started with: it "
            f"has {what}; restore the data, or start in another --workdir with "
            f"--config.initial.checkpoint={folder}"
        )
