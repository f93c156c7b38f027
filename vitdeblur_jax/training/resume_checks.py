"""Checks before a run starts or resumes.

All processes see the same checkpoints and data. A resumed run keeps its steps, network and data.
"""

from collections.abc import Sequence

import flax.linen as nn
import ml_collections

from vitdeblur_jax.checkpoints.orbax_folders import step_folders
from vitdeblur_jax.checkpoints.pretrained import checked_config, network_differences
from vitdeblur_jax.training.data_sets import training_sets
from vitdeblur_jax.utils.buckets import AnyPath
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.json_files import read_json


def check_steps(folder: AnyPath, step: int, config: ml_collections.ConfigDict) -> None:
    """Raises `UserError` if the run is past the steps of the config."""
    if step > config.num_steps:
        raise UserError(
            f"num_steps is {config.num_steps}, but the run in {folder} is already at step {step}; "
            "raise num_steps, or choose another --workdir"
        )


def check_network(folder: AnyPath, network: nn.Module) -> None:
    """Raises `UserError` if the run started with another network, which may have equal shapes.

    The code of the network is not compared.
    """
    steps = step_folders(folder / "checkpoints")
    if not steps:
        return
    try:
        saved = read_json(steps[max(steps)] / "config" / "metadata")
        saved.pop("checksums", None)
        saved = checked_config(saved, str(folder))
    except UserError:
        return  # damaged: restoring the checkpoint tells it with its fix
    differences = network_differences(network, saved)
    if differences:
        raise UserError(
            f"the run in {folder} was started with another network: {'; '.join(differences)}; "
            "choose another --workdir"
        )


def check_are_same_checkpoints(folder: AnyPath, found: Sequence[int | None]) -> None:
    """Raises `UserError` if the processes see different checkpoints of the run.

    Args:
      folder: The run's folder.
      found: The newest step that each process sees, or None.
    """
    seen = ["no checkpoint" if step is None else f"step {step}" for step in found]
    for process, newest in enumerate(seen):
        if newest != seen[0]:
            raise UserError(
                f"process {process} sees {newest} in the workdir {folder}, and process 0 sees "
                f"{seen[0]}; it must be on a disk that all machines share"
            )


def check_is_same_data(found: Sequence[dict], use: str) -> None:
    """Raises `UserError` if the processes see different data; each would draw other batches.

    Args:
      found: The fingerprints of the data of each process, by data set.
      use: "training" or "validation", for the message.
    """
    for process, fingerprints in enumerate(found):
        for path in sorted(fingerprints.keys() | found[0].keys()):
            own, first = fingerprints.get(path), found[0].get(path)
            if own != first:
                counts = [fingerprint and fingerprint["examples"] for fingerprint in (own, first)]
                raise UserError(
                    f"{path}: process {process} and process 0 see different {use} data, with "
                    f"{counts[0]} and {counts[1]} examples; all processes need the same data"
                )


def check_data(
    folder: AnyPath, resume_state: dict, found: dict, config: ml_collections.ConfigDict
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
