"""The auxiliary terms of the published objective: contextual tokens, sharpness and VICReg.

Each function returns one float32 number per image, unless its docstring says otherwise. Inputs of
any float dtype are converted to float32.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_LEAST_VARIANCE = 1e-4


def contextual_cosine_loss(
    contextual: Float[Array, "batch tokens embedding"],
    sharp: Float[Array, "batch tokens embedding"],
) -> Float[Array, " batch"]:
    """Returns 1 - cosine similarity, averaged over all tokens including the class token.

    Both arguments receive gradients, as in the reference. The cosine with a zero vector is 0 and
    has no gradient. In an untrained network h_s is zero, and the reference's gradient there is 1e8
    times too large. It would disturb gradient clipping in the first steps and Adam's second moments
    for longer.

    Args:
      contextual: The tokens h_s of the blurred images.
      sharp: The normalized contextual tokens of the sharp images.
    """
    one, other = contextual.astype(jnp.float32), sharp.astype(jnp.float32)
    squares = (one * one).sum(axis=-1) * (other * other).sum(axis=-1)
    is_direction = squares > 0
    # `where` evaluates both branches, and the root of zero would make the gradient NaN.
    norms = jnp.sqrt(jnp.where(is_direction, squares, 1))
    cosine = jnp.where(is_direction, (one * other).sum(axis=-1) / norms, 0)
    return (1 - cosine).mean(axis=-1)


def contextual_l1_loss(
    contextual: Float[Array, "batch tokens embedding"],
    sharp: Float[Array, "batch tokens embedding"],
) -> Float[Array, " batch"]:
    """Returns the mean absolute difference, which an earlier release used instead of the cosine."""
    return jnp.abs(contextual.astype(jnp.float32) - sharp.astype(jnp.float32)).mean(axis=(1, 2))


def sharpness_loss(
    blurred_logit: Float[Array, " batch"], sharp_logit: Float[Array, " batch"]
) -> Float[Array, " batch"]:
    """Returns the binary cross entropy of "this is sharp", in nats, summed over both images.

    The label of the blurred image is 0, that of the sharp image 1.
    """
    blurred, sharp = blurred_logit.astype(jnp.float32), sharp_logit.astype(jnp.float32)
    return jax.nn.softplus(blurred) + jax.nn.softplus(-sharp)


def vicreg_invariance(
    blurred: Float[Array, "batch projection"], sharp: Float[Array, "batch projection"]
) -> Float[Array, ""]:
    """Returns the mean squared difference of the projections, a scalar.

    The three terms of VICReg (Bardes, Ponce, LeCun, ICLR 2022) are computed over the global batch,
    which needs at least 2 images. The published code logs them and does not train with them.
    """
    return ((blurred.astype(jnp.float32) - sharp.astype(jnp.float32)) ** 2).mean()


def vicreg_variance(
    blurred: Float[Array, "batch projection"], sharp: Float[Array, "batch projection"]
) -> Float[Array, ""]:
    """Returns the mean shortfall of the standard deviations over the batch from 1, a scalar.

    The standard deviation is sqrt(unbiased variance + 1e-4). The result is the mean over both
    arguments.
    """
    return (_shortfall(blurred) + _shortfall(sharp)) / 2


def vicreg_covariance(
    blurred: Float[Array, "batch projection"], sharp: Float[Array, "batch projection"]
) -> Float[Array, ""]:
    """Returns the sum of squared off-diagonal covariances divided by 256, a scalar.

    The terms of both arguments are added. The reference divides by 256, the projector's hidden
    width, although the projections have 128 channels.
    """
    return _off_diagonal(blurred) + _off_diagonal(sharp)


def _shortfall(projection):
    variance = projection.astype(jnp.float32).var(axis=0, ddof=1)
    return jax.nn.relu(1 - jnp.sqrt(variance + _LEAST_VARIANCE)).mean()


def _off_diagonal(projection):
    centred = projection.astype(jnp.float32) - projection.astype(jnp.float32).mean(axis=0)
    covariance = jnp.matmul(centred.T, centred, precision="highest") / (len(centred) - 1)
    return ((covariance**2).sum() - (jnp.diag(covariance) ** 2).sum()) / 256
