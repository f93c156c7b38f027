"""What a run says when it is resumed, and when it fails."""

import ml_collections

from vitdeblur_jax.training.checkpointing import TrainingCheckpoints
from vitdeblur_jax.training.configuration import free_keys
from vitdeblur_jax.training.data import TrainingData
from vitdeblur_jax.training.metrics_window import NotFiniteError
from vitdeblur_jax.training.time_limit import TimeLimit
from vitdeblur_jax.utils.buckets import AnyPath


def what_was_done(
    folder: AnyPath, config: ml_collections.ConfigDict, step: int, time_limit: TimeLimit
) -> str:
    """Returns the first line of a resumed run.

    Args:
      folder: The run's folder.
      config: Config of the run.
      step: Number of steps done.
      time_limit: The time limit of the run.
    """
    if step < config.num_steps and time_limit.progress < 1:
        left = f", {time_limit.seconds_left():.0f} s left" if time_limit else ""
        return f"resuming at step {step}{left or f' of {config.num_steps}'}"
    longer = "raise num_steps to train longer"
    if time_limit or "num_steps" not in free_keys(config):
        longer = (
            f"to train longer, start in another --workdir with --config.initial.checkpoint={folder}"
        )
    return f"this run is complete: all {step} steps are done; {longer}"


def what_was_not_finite(
    error: NotFiniteError, data: TrainingData, checkpoints: TrainingCheckpoints
) -> str:
    """Returns the error of a run that stopped at a step that is not finite.

    Args:
      error: The step.
      data: The data of the run.
      checkpoints: The checkpoints of the run.
    """
    names = data.names(error.step - 1)
    blamed = [names[image] for image in error.images] or names
    last = checkpoints.latest_step()
    kept = "no checkpoint was saved yet" if last is None else f"checkpoint {last} is kept"
    return (
        f"step {error.step}: {', '.join(error.names)} not finite, in a batch with "
        f"{', '.join(blamed)}; {kept}. A lower optimizer.learning_rate or optimizer.clip_norm may "
        "help; max_nonfinite_steps skips such steps"
    )
