"""Training objectives: weighted loss terms of a network's outputs for a batch of pairs."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitdeblur_jax.models.network import own_loss_terms, training_outputs
from vitdeblur_jax.training.losses import LPIPS, RESTORATION_LOSSES
from vitdeblur_jax.utils.config_checks import check_keys
from vitdeblur_jax.utils.errors import UserError


class Objective(NamedTuple):
    """The result of an objective.

    Attributes:
      loss: The loss to minimize.
      terms: The unweighted loss terms by name, means over the batch.
      per_image: The loss of each image, without terms that exist only for a whole batch.
      model_state: The network's collections other than "params", updated by the call.
    """

    loss: Float[Array, ""]
    terms: dict[str, Float[Array, ""]]
    per_image: Float[Array, " batch"]
    model_state: dict


def weighted_objective(
    network: nn.Module,
    weights: Mapping[str, float],
    variables: dict,
    blurred: Float[Array, "batch height width channels"],
    sharp: Float[Array, "batch height width 3"],
    rng: Array,
    *,
    border: int = 0,
    lpips: Callable[[Array, Array], Array] | None = None,
    changed: Mapping[str, Array] | None = None,
) -> Objective:
    """Returns the weighted sum of restoration losses and of the network's own terms.

    Terms with a nonzero weight are computed, and always "charbonnier", for the log. If one of the
    network's own terms has a nonzero weight, all of them are computed and logged.

    Args:
      network: The network.
      weights: Weights by term name, as in the config's `loss`; the default is 0.
      variables: The network's variables.
      blurred: In [0, 1], one view or more.
      sharp: In [0, 1].
      rng: Key for dropout.
      border: Pixels on each side that the restoration losses exclude.
      lpips: The loss of that name, from `read_lpips_loss`; required if it has a weight.
      changed: Scalars that replace some of the weights in the sum. `weights` must have a weight for
        each of them that is not 0.
    """
    own = frozenset(own_loss_terms(network))
    check_keys(weights, [*RESTORATION_LOSSES, LPIPS, *own], "the loss")
    wanted = own if any(weights.get(name) for name in own) else frozenset()
    restored, found, model_state = training_outputs(network, variables, blurred, sharp, wanted, rng)
    _check_own_terms(network, found, [name for name in wanted if weights.get(name)], len(blurred))
    inside = slice(border, -border or None)
    images = restored[:, inside, inside], sharp[:, inside, inside]
    losses = RESTORATION_LOSSES if lpips is None else {**RESTORATION_LOSSES, LPIPS: lpips}
    terms = {
        name: loss(*images)
        for name, loss in losses.items()
        if weights.get(name) or name == "charbonnier"
    } | found
    current = {**weights, **(changed or {})}
    # Terms with weight 0 are excluded, not multiplied: 0 * inf is NaN.
    weighted = {
        n: jnp.where(current[n] == 0, 0, current[n] * values)
        for n, values in terms.items()
        if weights.get(n)
    }
    return Objective(
        loss=sum(values.mean() for values in weighted.values()),
        terms={name: values.mean() for name, values in terms.items()},
        per_image=sum(
            (values for values in weighted.values() if values.ndim),
            start=jnp.zeros(len(blurred), jnp.float32),
        ),
        model_state=model_state,
    )


def _check_own_terms(network, found, wanted, batch_size):
    """Raises `UserError` for missing, unnamed or misshapen own terms; traced or not."""
    name = type(network).__name__
    if wanted and not hasattr(network, "training_outputs"):
        raise UserError(
            f"{name} has the loss term {wanted[0]!r} in LOSS_TERMS, but no method "
            "`training_outputs` that returns it; see docs/research.md"
        )
    missing = [term for term in wanted if term not in found]
    unnamed = [term for term in found if term not in own_loss_terms(network)]
    if missing:
        others = ", ".join(map(repr, unnamed or found)) or "no term"
        raise UserError(
            f"{name} has the loss term {missing[0]!r} in LOSS_TERMS, but its `training_outputs` "
            f"returns {others}"
        )
    if unnamed:
        raise UserError(
            f"{name}.training_outputs returns the loss term {unnamed[0]!r}; add it to LOSS_TERMS, "
            "with its default weight, or do not return it"
        )
    for term, values in found.items():
        if jnp.shape(values) not in ((), (batch_size,)):
            raise UserError(
                f"{name}.training_outputs returns the loss term {term!r} of shape "
                f"{jnp.shape(values)}; it must be one number per image, of shape ({batch_size},), "
                "or a scalar"
            )


def restoration_objective(
    network: nn.Module,
    variables: dict,
    blurred: Float[Array, "batch height width channels"],
    sharp: Float[Array, "batch height width 3"],
    rng: Array,
    *,
    loss: Callable[[Array, Array], Array],
) -> Objective:
    """Returns the objective that consists of one loss of the restored images.

    Args:
      network: The network.
      variables: The network's variables.
      blurred: In [0, 1], one view or more.
      sharp: In [0, 1].
      rng: Key for dropout.
      loss: Function of restored and sharp images that returns one number for each image, as in
        `training.losses`.
    """
    restored, _, model_state = training_outputs(
        network, variables, blurred, sharp, frozenset(), rng
    )
    per_image = loss(restored, sharp)
    return Objective(per_image.mean(), {}, per_image, model_state)
