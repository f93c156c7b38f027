"""What a training step takes and gives back."""

from typing import Any

import flax.struct
import jax
import optax


@flax.struct.dataclass
class TrainState:
    """All that changes in training, as one pytree.

    Attributes:
      step: batches taken so far, int32.
      skipped: of these, int32, how many were left out because something was not finite.
      params: nested, float32.
      model_state: the network's other collections, such as "batch_stats".
      opt_state: of the parameters that are trained.
      ema_params: exponential moving average of `params`; None if none is kept.
    """

    step: Any
    skipped: Any
    params: dict
    model_state: dict
    opt_state: Any
    ema_params: dict | None

    @property
    def variables(self) -> dict:
        """The model's variables as they are trained."""
        return self._with(self.params)

    @property
    def ema_variables(self) -> dict:
        """The model's variables to be used: averaged where an average is kept."""
        return self._with(self.params if self.ema_params is None else self.ema_params)

    def _with(self, params):
        return {"params": params, **self.model_state}


def create_state(
    variables: dict, trained: dict, optimizer: optax.GradientTransformation, with_ema: bool
) -> TrainState:
    """Returns the state before the first step.

    Args:
      variables: of the model.
      trained: those of its parameters that are trained.
      optimizer: of these.
      with_ema: keep a moving average of the parameters.
    """
    params = variables["params"]
    return TrainState(
        step=jax.numpy.zeros((), jax.numpy.int32),
        skipped=jax.numpy.zeros((), jax.numpy.int32),
        params=params,
        model_state={name: value for name, value in variables.items() if name != "params"},
        opt_state=optimizer.init(trained),
        # A copy: the step donates its state, and a buffer must not be donated twice.
        ema_params=jax.tree.map(jax.numpy.copy, params) if with_ema else None,
    )
