"""Restoration losses: pure functions of restored and sharp images.

Each returns one float32 number for each image of the batch; the mean over the batch is the term.
Inputs of any float dtype are converted to float32 first.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def charbonnier_loss(
    restored: Float[Array, "batch height width channels"],
    sharp: Float[Array, "batch height width channels"],
    border: int = 0,
) -> Float[Array, " batch"]:
    """Returns the mean of sqrt(d^2 + 1e-6) over pixels and channels, d the difference.

    Charbonnier et al., "Two deterministic half-quadratic regularization algorithms for computed
    imaging", ICIP 1994, with the reference's constant.

    Args:
      restored: The network's output, not clipped.
      sharp: The target, in [0, 1].
      border: Rows and columns on each side that are excluded.
    """
    inside = slice(border, -border or None)
    difference = restored.astype(jnp.float32) - sharp.astype(jnp.float32)
    return jnp.sqrt(difference[:, inside, inside] ** 2 + 1e-6).mean(axis=(1, 2, 3))


RESTORATION_LOSSES = {"charbonnier": charbonnier_loss}
