"""Where training starts: random, identical to the input, from pretrained encoders, a checkpoint."""

import jax
import jax.numpy as jnp
import ml_collections

from vitdeblur_jax.checkpoints import initialize_encoder, load_pretrained
from vitdeblur_jax.models import ViTDeblur, abstract_variables, initial_variables


def starting_variables(config: ml_collections.ConfigDict) -> dict:
    """Returns the variables that the training config asks to begin with.

    Raises:
      UserError: a checkpoint or pretrained weights cannot be read or do not fit the model.
    """
    initial = config.initial
    if initial.checkpoint:
        return load_pretrained(initial.checkpoint, config.model).variables
    model = ViTDeblur(**config.model)
    given = abstract_variables(model)
    if initial.encoder:  # what is wrong with it shows before anything is compiled
        given, unused = initialize_encoder(given, config.model, initial.encoder)
        print(f"{initial.encoder}: {len(unused)} of its entries have no place in the model")
    variables = jax.tree.map(_given_or_random, given, initial_variables(model, config.seed))
    if initial.identity:
        variables = {**variables, "params": as_identity(variables["params"])}
    return variables


def _given_or_random(given, random):
    return random if isinstance(given, jax.ShapeDtypeStruct) else given


def as_identity(params: dict) -> dict:
    """Returns parameters of an untrained model that gives back its input, inside of its borders.

    The image head's first convolution carries the image over in its first three channels (of two
    views their mean) and leaves the others empty; the second passes these three on. What it makes
    of the other channels stays random, so that all of what the decoder will write, nothing so far,
    has a gradient. Exact but for a border of half the first kernel, which the head trims and fills
    by reflection.
    """
    head = params["image_head"]
    first, second = (head[f"{name}_convolution"] for name in ("input", "output"))
    row, column = (side // 2 for side in first["kernel"].shape[:2])
    # Both copies of a single view, or both views, give half.
    carry = jnp.concatenate([jnp.eye(3)] * 2) / 2
    kernel = jnp.zeros_like(first["kernel"]).at[row, column, :, :3].set(carry)
    first = {"kernel": kernel, "bias": jnp.zeros_like(first["bias"])}
    row, column = (side // 2 for side in second["kernel"].shape[:2])
    kernel = second["kernel"].at[:, :, :3].set(0).at[row, column, :3].set(jnp.eye(3))
    second = {"kernel": kernel, "bias": jnp.zeros_like(second["bias"])}
    prediction = jax.tree.map(jnp.zeros_like, params["decoder"]["prediction"])
    return {
        **params,
        "image_head": {"input_convolution": first, "output_convolution": second},
        "decoder": {**params["decoder"], "prediction": prediction},
    }
