"""What training minimises: the losses, weighted, of a model's outputs for a batch of pairs."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from vitdeblur_jax.models import ViTDeblur
from vitdeblur_jax.training import losses

_OF_THE_PROJECTOR = ("vicreg_invariance", "vicreg_variance", "vicreg_covariance")
_OF_THE_SHARP_IMAGE = ("contextual_cosine", "contextual_l1", "sharpness", *_OF_THE_PROJECTOR)


class Objective(NamedTuple):
    """What an objective returns.

    Attributes:
      loss: what is minimised.
      terms: its parts, means over the batch, before they are weighted.
      per_image: the loss of each image, without what only exists for a whole batch.
      batch_stats: the new running statistics.
    """

    loss: Float[Array, ""]
    terms: dict[str, Float[Array, ""]]
    per_image: Float[Array, " batch"]
    batch_stats: dict


def deblurring_objective(
    model: ViTDeblur,
    weights: Mapping[str, float],
    variables: dict,
    blurred: Float[Array, "batch height width channels"],
    sharp: Float[Array, "batch height width 3"],
    *,
    border: int = 0,
) -> Objective:
    """Returns the published objective: restoration, contextual representation, "is it sharp".

    All terms are computed, those of weight 0 only to be logged. But where each of the terms that
    look at the sharp image's encoding has weight 0, the sharp image is not encoded: half of the
    encoders' work is spared, and "charbonnier" is the only term.

    Args:
      model: the model.
      weights: of the terms, as the config's `loss` has them; one that is not there is 0.
      variables: of the model.
      blurred: in [0, 1], one view or two.
      sharp: in [0, 1].
      border: pixels a side that the restoration's term leaves out.
    """
    if not needs_the_sharp_encoding(weights):
        restored = model.apply(variables, blurred)
        per_image = {"charbonnier": losses.charbonnier_loss(restored, sharp, border)}
        return _weighted(weights, per_image, {}, variables["batch_stats"])
    outputs, updated = model.apply(
        variables, blurred, sharp, True, method="training_outputs", mutable=["batch_stats"]
    )
    context = outputs.contextual_tokens, outputs.sharp_tokens
    projections = outputs.blurred_projection, outputs.sharp_projection
    per_image = {
        "charbonnier": losses.charbonnier_loss(outputs.restored, sharp, border),
        "contextual_cosine": losses.contextual_cosine_loss(*context),
        "contextual_l1": losses.contextual_l1_loss(*context),
        "sharpness": losses.sharpness_loss(outputs.blurred_logit, outputs.sharp_logit),
    }
    per_batch = {
        "vicreg_invariance": losses.vicreg_invariance(*projections),
        "vicreg_variance": losses.vicreg_variance(*projections),
        "vicreg_covariance": losses.vicreg_covariance(*projections),
    }
    return _weighted(weights, per_image, per_batch, updated["batch_stats"])


def restoration_objective(
    model: ViTDeblur,
    variables: dict,
    blurred: Float[Array, "batch height width channels"],
    sharp: Float[Array, "batch height width 3"],
    *,
    loss: Callable[[Array, Array], Array],
) -> Objective:
    """Returns one loss of the restored images, whatever it is; the sharp ones are not encoded.

    Args:
      model: the model.
      variables: of the model.
      blurred: in [0, 1], one view or two.
      sharp: in [0, 1].
      loss: of restored and sharp images; a number for each image, as in `training.losses`.
    """
    per_image = loss(model.apply(variables, blurred), sharp)
    return Objective(per_image.mean(), {}, per_image, variables["batch_stats"])


def needs_the_sharp_encoding(weights: Mapping[str, float]) -> bool:
    """Returns whether any term is trained with that the sharp image's encoding goes into."""
    return any(weights.get(name) for name in _OF_THE_SHARP_IMAGE)


def heads_without_gradient(weights: Mapping[str, float]) -> tuple[tuple[str, ...], ...]:
    """Returns the paths of the heads that no weighted term reaches: they are not trained.

    PyTorch's optimizers pass over parameters without gradient; a gradient of zero would still let
    weight decay shrink them.
    """
    heads = []
    if not any(weights.get(name) for name in _OF_THE_PROJECTOR):
        heads += [("contextual_encoder", "projector")]
    if not weights.get("sharpness"):
        heads += [("contextual_encoder", "sharpness"), ("contextual_encoder", "sharpness_norm")]
    return tuple(heads)


def _weighted(weights, per_image, per_batch, batch_stats) -> Objective:
    terms = {name: values.mean() for name, values in per_image.items()} | per_batch
    # What has weight 0 is not multiplied by it: 0 * inf would not be 0.
    loss = sum(weights[name] * value for name, value in terms.items() if weights.get(name))
    weighted = [weights[name] * value for name, value in per_image.items() if weights.get(name)]
    each = sum(weighted, start=jnp.zeros_like(per_image["charbonnier"]))
    return Objective(loss, terms, each, batch_stats)
