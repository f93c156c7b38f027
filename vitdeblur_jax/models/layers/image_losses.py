"""Losses of images: one float32 number per image, from inputs of any float dtype."""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitdeblur_jax.utils.errors import UserError

_LEAST_PYRAMID = 48  # pixels

Images = Float[Array, "batch height width 3"]


def l1(output: Images, target: Images) -> Float[Array, " batch"]:
    """Returns the mean absolute difference."""
    return jnp.abs(_float32(output) - _float32(target)).mean((1, 2, 3))


def mse(output: Images, target: Images) -> Float[Array, " batch"]:
    """Returns the mean squared difference."""
    return ((_float32(output) - _float32(target)) ** 2).mean((1, 2, 3))


def fourier_l1(output: Images, target: Images) -> Float[Array, " batch"]:
    """Returns the L1 loss of the unnormalized two-dimensional Fourier transform.

    It is the mean absolute difference of the real parts plus that of the imaginary parts, as in
    NRKNet (Quan, Wu, Ji, CVPR 2023). MIMO-UNet (Cho et al., "Rethinking Coarse-to-Fine Approach in
    Single Image Deblurring", ICCV 2021) takes the mean over both, which is half of this sum. Values
    grow with the side of the images, so a weight is valid for one crop size.
    """
    difference = jnp.fft.fft2(_float32(output) - _float32(target), axes=(1, 2))
    return (jnp.abs(difference.real) + jnp.abs(difference.imag)).mean((1, 2, 3))


def dissimilarity(output: Images, target: Images) -> Float[Array, " batch"]:
    """Returns 1 - SSIM; see `structural_similarity_gaussian` for the window.

    Raises:
      UserError: A side is shorter than 11 pixels.
    """
    # Late, because restoration imports this file and needs no metrics.
    from vitdeblur_jax.metrics.similarity import structural_similarity_gaussian

    return 1 - jax.vmap(structural_similarity_gaussian)(_float32(output), _float32(target))


_PYRAMID_LOSSES = {"pyramid_mse": mse, "pyramid_fourier": fourier_l1, "pyramid_ssim": dissimilarity}


def pyramid_losses(
    outputs: Sequence[Float[Array, "batch _ _ 3"]],
    targets: Sequence[Float[Array, "batch _ _ 3"]],
    weights: Sequence[float],
    terms: frozenset[str],
) -> dict[str, Float[Array, " batch"]]:
    """Returns the weighted sums of losses over several scales, by the name of the term.

    Args:
      outputs: One image per scale.
      targets: The target of each of them.
      weights: Weights of the scales.
      terms: Terms to compute: "pyramid_mse", "pyramid_fourier", "pyramid_ssim". Other names are
        ignored.
    """

    def total(loss):
        losses = map(loss, outputs, targets)
        return sum(weight * value for weight, value in zip(weights, losses, strict=True))

    return {name: total(loss) for name, loss in _PYRAMID_LOSSES.items() if name in terms}


def check_pyramid(network: nn.Module, crop: int, weights: Mapping[str, float]) -> None:
    """Raises `UserError` if crops at a quarter of their size are too small for SSIM.

    Args:
      network: The network. `LOSS_TERMS` has its terms, which `pyramid_losses` computes.
      crop: Side of the training crops, pixels; a multiple of 16.
      weights: Weights of all loss terms, by name.
    """
    if crop < _LEAST_PYRAMID and any(weights.get(name) for name in network.LOSS_TERMS):
        raise UserError(
            f"crop is {crop}; the loss terms of {type(network).__name__} need at least "
            f"{_LEAST_PYRAMID}, because SSIM needs 11 pixels at a quarter of the size"
        )


def _float32(images):
    return images.astype(jnp.float32)
