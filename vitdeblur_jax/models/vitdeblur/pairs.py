"""A blurred and a sharp image as a pair that goes through the encoders together."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class PairOutputs(NamedTuple):
    """What the losses compare; the sharp image feeds only them."""

    restored: Float[Array, "batch height width 3"]
    contextual_tokens: Float[Array, "batch tokens embedding"]
    sharp_tokens: Float[Array, "batch tokens embedding"]
    blurred_logit: Float[Array, " batch"]
    sharp_logit: Float[Array, " batch"]
    blurred_projection: Float[Array, "batch projection"]
    sharp_projection: Float[Array, "batch projection"]


def interleaved(
    first: Float[Array, "batch height width channels"],
    second: Float[Array, "batch height width channels"],
) -> Float[Array, "pairs height width channels"]:
    """Joins two batches pair by pair, so that sharded batches need no communication.

    Concatenating sharded batches would gather both on every device.
    """
    pairs = jnp.stack([first, second], axis=1)
    return pairs.reshape(-1, *first.shape[1:])


def parted(joined: Float[Array, "pairs *shape"]) -> tuple[Array, Array]:
    """Undoes `interleaved`, for arrays of any shape behind the batch axis."""
    pairs = joined.reshape(-1, 2, *joined.shape[1:])
    return pairs[:, 0], pairs[:, 1]
