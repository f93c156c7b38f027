"""The terms of the published objective beside restoration: contextual tokens, sharpness, VICReg.

Each returns one float32 number for each image of the batch, unless it says otherwise. Inputs of any
float dtype are converted to float32 first.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_LEAST_VARIANCE = 1e-4


def contextual_cosine_loss(
    contextual: Float[Array, "batch tokens embedding"],
    sharp: Float[Array, "batch tokens embedding"],
) -> Float[Array, " batch"]:
    """Returns the mean over tokens, class token too, of 1 - cos between the two.

    The gradient goes into both, as in the reference. The cosine with a zero vector is 0 and has no
    gradient: an untrained network's h_s is zero everywhere, and the reference's gradient there, 1e8
    times too large, would spoil the first steps' clipping and Adam's second moments for long.

    Args:
      contextual: H_s of the blurred images.
      sharp: The normalised contextual tokens of the sharp images.
    """
    one, other = contextual.astype(jnp.float32), sharp.astype(jnp.float32)
    squares = (one * one).sum(axis=-1) * (other * other).sum(axis=-1)
    is_direction = squares > 0
    # The root of a zero that is not chosen would still make the gradient NaN.
    norms = jnp.sqrt(jnp.where(is_direction, squares, 1))
    cosine = jnp.where(is_direction, (one * other).sum(axis=-1) / norms, 0)
    return (1 - cosine).mean(axis=-1)


def contextual_l1_loss(
    contextual: Float[Array, "batch tokens embedding"],
    sharp: Float[Array, "batch tokens embedding"],
) -> Float[Array, " batch"]:
    """Returns the mean absolute difference; an earlier release had it in the cosine's place."""
    return jnp.abs(contextual.astype(jnp.float32) - sharp.astype(jnp.float32)).mean(axis=(1, 2))


def sharpness_loss(
    blurred_logit: Float[Array, " batch"], sharp_logit: Float[Array, " batch"]
) -> Float[Array, " batch"]:
    """Returns the binary cross entropies of "this is sharp", in nats, for both images of a pair.

    The blurred one's label is 0, the sharp one's 1; both are added.
    """
    blurred, sharp = blurred_logit.astype(jnp.float32), sharp_logit.astype(jnp.float32)
    return jax.nn.softplus(blurred) + jax.nn.softplus(-sharp)


def vicreg_invariance(
    blurred: Float[Array, "batch projection"], sharp: Float[Array, "batch projection"]
) -> Float[Array, ""]:
    """Returns the mean squared difference of the projections, over the batch.

    The three terms of VICReg (Bardes, Ponce, LeCun, ICLR 2022) are computed over the global batch
    of at least 2. The published code logs them and does not train with them.
    """
    return ((blurred.astype(jnp.float32) - sharp.astype(jnp.float32)) ** 2).mean()


def vicreg_variance(
    blurred: Float[Array, "batch projection"], sharp: Float[Array, "batch projection"]
) -> Float[Array, ""]:
    """Returns how far the standard deviations over the batch fall short of 1, on average.

    The standard deviation is sqrt(unbiased variance + 1e-4); both sets count half.
    """
    return (_shortfall(blurred) + _shortfall(sharp)) / 2


def vicreg_covariance(
    blurred: Float[Array, "batch projection"], sharp: Float[Array, "batch projection"]
) -> Float[Array, ""]:
    """Returns the squared covariances off the diagonal over the reference's 256, both sets added.

    256 is the projector's hidden width; its projections have 128 channels.
    """
    return _off_diagonal(blurred) + _off_diagonal(sharp)


def _shortfall(projection):
    variance = projection.astype(jnp.float32).var(axis=0, ddof=1)
    return jax.nn.relu(1 - jnp.sqrt(variance + _LEAST_VARIANCE)).mean()


def _off_diagonal(projection):
    centred = projection.astype(jnp.float32) - projection.astype(jnp.float32).mean(axis=0)
    covariance = jnp.matmul(centred.T, centred, precision="highest") / (len(centred) - 1)
    return ((covariance**2).sum() - (jnp.diag(covariance) ** 2).sum()) / 256
