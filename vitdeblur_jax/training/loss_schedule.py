"""Weights of loss terms that change during a run.

`config.loss_schedule` is ((first_step, ((term, weight), ...)), ...). From `first_step` until the
next phase, these weights replace those in `config.loss`; terms that a phase does not name keep the
weight in `config.loss`. A term with a weight in any phase is computed in all phases.
"""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from vitdeblur_jax.training.losses import WEIGHT_RULE, loss_weights
from vitdeblur_jax.utils.config_checks import Rule, check_keys, integer, pair, sequence, text
from vitdeblur_jax.utils.errors import UserError

Phase = tuple[int, dict[str, float]]
WeightsAt = Callable[[ArrayLike], dict[str, Float[Array, ""]]]


def phases_rule() -> Rule:
    """Returns the rule for `loss_schedule`, without the names of the terms."""
    changes = sequence(pair(text(), WEIGHT_RULE))
    return sequence(pair(integer(1), changes))._replace(
        wanted="((first_step, ((term, weight), ...)), ...), terms of loss"
    )


def check_loss_schedule(config: ml_collections.ConfigDict) -> None:
    """Raises `UserError` unless the phases increase, name terms of `loss` and train something."""
    starts = [first_step for first_step, _ in config.loss_schedule]
    if starts != sorted(set(starts)) or (starts and starts[-1] >= config.num_steps):
        raise UserError(
            f"loss_schedule has the first steps {starts}; they must increase, from 1 to less than "
            f"num_steps, which is {config.num_steps}"
        )
    for first_step, changes in config.loss_schedule:
        check_keys(dict(changes), loss_weights(config.loss), f"loss_schedule, step {first_step}")
    for first_step, weights in phases(config):
        if not any(weights.values()):
            when = f"from step {first_step} on, " if first_step else ""
            raise UserError(f"{when}all weights in loss are 0, so nothing would be trained")


def phases(config: ml_collections.ConfigDict) -> list[Phase]:
    """Returns the first step of each phase and the weights of all terms in it."""
    usual = {name: float(weight) for name, weight in loss_weights(config.loss).items()}
    plan = [(0, usual)]
    for first_step, changes in config.loss_schedule:
        plan.append((first_step, usual | {name: float(weight) for name, weight in changes}))
    return plan


def largest_weights(config: ml_collections.ConfigDict) -> dict[str, float]:
    """Returns the largest weight of each term in the run."""
    plan = [weights for _, weights in phases(config)]
    return {name: max(weights[name] for weights in plan) for name in plan[0]}


def changing_weights(config: ml_collections.ConfigDict) -> WeightsAt | None:
    """Returns the function from a step to the weights that change in the run; None if none do."""
    plan = phases(config)
    starts = np.array([first_step for first_step, _ in plan])
    by_term: Mapping[str, list[float]] = {
        name: [weights[name] for _, weights in plan] for name in plan[0][1]
    }
    changing = {name: np.array(w, np.float32) for name, w in by_term.items() if len(set(w)) > 1}
    if not changing:
        return None

    def weights_at(step: ArrayLike) -> dict[str, Float[Array, ""]]:
        phase = jnp.searchsorted(jnp.asarray(starts), step, side="right") - 1
        return {name: jnp.asarray(weights)[phase] for name, weights in changing.items()}

    return weights_at
