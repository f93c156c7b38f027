"""Pairs of a blurred and a sharp image that the encoders process together."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class PairOutputs(NamedTuple):
    """The inputs of the losses. Only the losses use the sharp image."""

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
    """Interleaves two batches, so that sharded batches need no communication.

    A concatenation of sharded batches would gather both on every device.
    """
    pairs = jnp.stack([first, second], axis=1)
    return pairs.reshape(-1, *first.shape[1:])


def parted(joined: Float[Array, "pairs *shape"]) -> tuple[Array, Array]:
    """Inverts `interleaved`; the axes after the batch axis can have any shape."""
    pairs = joined.reshape(-1, 2, *joined.shape[1:])
    return pairs[:, 0], pairs[:, 1]
