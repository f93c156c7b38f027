"""Restoration losses: pure functions of restored and sharp images.

Each returns one float32 number per image; the loss term is the mean over the batch. Inputs of any
float dtype are converted to float32 first. Restored images are not clipped.

| name | loss |
|---|---|
| charbonnier | sqrt(d^2 + 1e-6) of the difference d |
| l1, mse | mean absolute and mean squared difference |
| ssim | 1 - SSIM with an 11 x 11 Gaussian window of sigma 1.5, data range 1, channels averaged |
| fourier | L1 of the two-dimensional Fourier transform, see `fourier_l1` |
| lpips | LPIPS 0.1 with the network `lpips_backbone`, see `vitdeblur_jax.metrics.lpips` |
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float

from vitdeblur_jax.checkpoints.metric_weights import CACHE, READERS, MissingWeightsError
from vitdeblur_jax.metrics.lpips import BACKBONES, Params, lpips
from vitdeblur_jax.models.layers.image_losses import dissimilarity, fourier_l1, l1, mse
from vitdeblur_jax.utils.caches import own_cache
from vitdeblur_jax.utils.config_checks import choice, integer, number, text
from vitdeblur_jax.utils.errors import UserError

LPIPS = "lpips"
SETTINGS = {"border": 0, "lpips_backbone": "vgg", "lpips_weights": ""}
"""The keys of `config.loss` that are not weights, with their defaults."""

WEIGHT_RULE = number(0, 1e6)
_LARGEST_BORDER = 2**14  # pixels
_LEAST_SIDES = {"ssim": 11, LPIPS: 35}  # pixels


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
      border: Pixels on each side to exclude.
    """
    inside = slice(border, -border or None)
    difference = restored.astype(jnp.float32) - sharp.astype(jnp.float32)
    return jnp.sqrt(difference[:, inside, inside] ** 2 + 1e-6).mean(axis=(1, 2, 3))


RESTORATION_LOSSES = {
    "charbonnier": charbonnier_loss,
    "l1": l1,
    "mse": mse,
    "ssim": dissimilarity,
    "fourier": fourier_l1,
}
"""The losses by name, except LPIPS, which is read from files."""

NAMES = (*RESTORATION_LOSSES, LPIPS)

# The keys of `config.loss` and their rules, without the network's own terms.
RULES = {
    **dict.fromkeys(NAMES, WEIGHT_RULE),
    "border": integer(0, _LARGEST_BORDER),
    "lpips_backbone": choice(*BACKBONES),
    "lpips_weights": text(),
}


def loss_weights(config: ml_collections.ConfigDict) -> dict[str, float]:
    """Returns the weights in `config.loss` by term name."""
    return {name: value for name, value in config.items() if name not in SETTINGS}


def check_losses(weights: Mapping[str, float], border: int, crop: int) -> None:
    """Raises `UserError` if crops are too small for a loss with a weight.

    Args:
      weights: Weights of all loss terms, by name.
      border: Pixels on each side that the restoration losses exclude.
      crop: Side of the training crops, pixels.
    """
    side = crop - 2 * border
    if side <= 0:
        raise UserError(
            f"loss.border excludes {border} pixels on each side, which is all of a "
            f"crop of {crop}; lower loss.border"
        )
    for name, least in _LEAST_SIDES.items():
        if weights[name] and side < least:
            raise UserError(
                f"loss.{name} needs {least} x {least} pixels, but a crop of {crop} with border "
                f"{border} leaves {side} x {side}; raise crop"
            )


def lpips_loss(
    params: Params,
    restored: Float[Array, "batch height width 3"],
    sharp: Float[Array, "batch height width 3"],
    *,
    backbone: str,
) -> Float[Array, " batch"]:
    """Returns the LPIPS distance of each image; its gradient is finite everywhere.

    Args:
      params: From `vitdeblur_jax.checkpoints.metric_weights`.
      restored: The network's output, not clipped; at least 35 x 35 pixels.
      sharp: The target, in [0, 1].
      backbone: "alex", "vgg" or "squeeze".
    """
    images = restored.astype(jnp.float32), sharp.astype(jnp.float32)
    return jax.vmap(functools.partial(lpips, params=params, backbone=backbone))(*images)


def read_lpips_loss(config: ml_collections.ConfigDict) -> Callable[[Array, Array], Array]:
    """Reads the weights of LPIPS and returns its loss, a pytree of these weights.

    Args:
      config: `config.loss`, with `lpips_backbone` and `lpips_weights`.

    Raises:
      UserError: The weights are missing or damaged.
    """
    backbone, folder = config["lpips_backbone"], config["lpips_weights"]
    read = READERS[f"lpips_{backbone}"]
    try:
        params = read(Path(folder) if folder else own_cache(CACHE))
    except MissingWeightsError as error:
        raise UserError(f"loss.lpips with loss.lpips_backbone {backbone!r} {error}") from error
    return jax.tree_util.Partial(functools.partial(lpips_loss, backbone=backbone), params)
