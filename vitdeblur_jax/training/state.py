"""The state of a training run."""

from typing import Any

import flax.struct
import jax
import optax


@flax.struct.dataclass
class TrainState:
    """The training state, as one pytree.

    Attributes:
      step: Number of steps done, int32.
      skipped: Number of these steps skipped because loss or gradient was not finite, int32.
      params: The network's parameters, a nested dict, float32.
      model_state: The network's other collections, such as "batch_stats".
      opt_state: Optimizer state of the trained parameters.
      ema_params: Exponential moving average of `params`; None without one.
    """

    step: Any
    skipped: Any
    params: dict
    model_state: dict
    opt_state: Any
    ema_params: dict | None

    @property
    def variables(self) -> dict:
        """The network's variables with the current parameters."""
        return self._with(self.params)

    @property
    def ema_variables(self) -> dict:
        """The network's variables with the averaged parameters, if there is an average."""
        return self._with(self.params if self.ema_params is None else self.ema_params)

    def _with(self, params):
        return {"params": params, **self.model_state}


def create_state(
    variables: dict, trained: dict, optimizer: optax.GradientTransformation, with_ema: bool
) -> TrainState:
    """Returns the state before the first step.

    Args:
      variables: The network's variables.
      trained: The parameters that are trained, a part of them.
      optimizer: Optimizer of the trained parameters.
      with_ema: Whether to keep a moving average of the parameters.
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
