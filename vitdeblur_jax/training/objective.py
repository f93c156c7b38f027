"""What training minimizes: weighted loss terms of a network's outputs for a batch of pairs."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitdeblur_jax.models.network import own_loss_terms, training_outputs
from vitdeblur_jax.training.losses import RESTORATION_LOSSES


class Objective(NamedTuple):
    """What an objective returns.

    Attributes:
      loss: what is minimized.
      terms: its parts, means over the batch, before they are weighted.
      per_image: the loss of each image, without what only exists for a whole batch.
      model_state: the network's collections but "params", as the call has left them.
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
) -> Objective:
    """Returns the weighted sum of restoration losses and of the network's own terms.

    The terms with a weight are computed, and "charbonnier" for the log. As soon as one of the
    network's own terms has a weight, all of them are computed and logged.

    Args:
      network: the network.
      weights: by name of the term, as the config's `loss` has them; one that is not there is 0.
      variables: of the network.
      blurred: in [0, 1], one view or more.
      sharp: in [0, 1].
      rng: key for dropout.
      border: pixels a side that the restoration losses leave out.
    """
    own = frozenset(own_loss_terms(network))
    wanted = own if any(weights.get(name) for name in own) else frozenset()
    restored, found, model_state = training_outputs(network, variables, blurred, sharp, wanted, rng)
    inside = slice(border, -border or None)
    images = restored[:, inside, inside], sharp[:, inside, inside]
    terms = {
        name: loss(*images)
        for name, loss in RESTORATION_LOSSES.items()
        if weights.get(name) or name == "charbonnier"
    } | found
    # What has weight 0 is not multiplied by it: 0 * inf would not be 0.
    weighted = {n: weights[n] * values for n, values in terms.items() if weights.get(n)}
    return Objective(
        loss=sum(values.mean() for values in weighted.values()),
        terms={name: values.mean() for name, values in terms.items()},
        per_image=sum(
            (values for values in weighted.values() if values.ndim),
            start=jnp.zeros(len(blurred), jnp.float32),
        ),
        model_state=model_state,
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
    """Returns one loss of the restored images, whatever it is.

    Args:
      network: the network.
      variables: of the network.
      blurred: in [0, 1], one view or more.
      sharp: in [0, 1].
      rng: key for dropout.
      loss: of restored and sharp images; a number for each image, as in `training.losses`.
    """
    restored, _, model_state = training_outputs(
        network, variables, blurred, sharp, frozenset(), rng
    )
    per_image = loss(restored, sharp)
    return Objective(per_image.mean(), {}, per_image, model_state)
