"""LPIPS, version 0.1: Zhang, Isola, Efros, Shechtman, Wang, CVPR 2018.

The distance between what a network that was trained to classify sees in two images. A backbone is
a row of layers; its taps are where the two are compared.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vitdeblur_jax.metrics.numerics import RGBImage, check_pair, nan_unless_finite, positive_power
from vitdeblur_jax.models.layers.convolution import direct_convolution
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.shapes import check_shapes

_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)

Params = dict[str, Any]


class Convolution(NamedTuple):
    """With bias, and a ReLU behind it."""

    side: int
    channels: int
    stride: int = 1
    padding: int = 1


class Fire(NamedTuple):
    """SqueezeNet's: 1 x 1 to few channels, then 1 x 1 beside 3 x 3 to many; ReLUs."""

    squeezed: int
    expanded: int  # of either branch


class MaxPool(NamedTuple):
    """Stride 2; windows that reach over the edge are left out, or with `ceil` cut off."""

    side: int
    ceil: bool = False


class Tap(NamedTuple):
    """What the layer before gives is compared."""


def _convolutions(*channels: int) -> list[Convolution]:
    return [Convolution(3, count) for count in channels]


def _fires(*sizes: tuple[int, int]) -> list[Fire | Tap]:
    return [layer for size in sizes for layer in (Fire(*size), Tap())]


BACKBONES = {
    "alex": (
        *(Convolution(11, 64, stride=4, padding=2), Tap(), MaxPool(3)),
        *(Convolution(5, 192, padding=2), Tap(), MaxPool(3)),
        *(Convolution(3, 384), Tap(), Convolution(3, 256), Tap(), Convolution(3, 256), Tap()),
    ),
    "vgg": (
        *(*_convolutions(64, 64), Tap(), MaxPool(2)),
        *(*_convolutions(128, 128), Tap(), MaxPool(2)),
        *(*_convolutions(256, 256, 256), Tap(), MaxPool(2)),
        *(*_convolutions(512, 512, 512), Tap(), MaxPool(2)),
        *(*_convolutions(512, 512, 512), Tap()),
    ),
    "squeeze": (
        *(Convolution(3, 64, stride=2, padding=0), Tap(), MaxPool(3, ceil=True)),
        *(Fire(16, 64), Fire(16, 64), Tap(), MaxPool(3, ceil=True)),
        *(Fire(32, 128), Fire(32, 128), Tap(), MaxPool(3, ceil=True)),
        *_fires((48, 192), (48, 192), (64, 256), (64, 256)),
    ),
}


def lpips(
    image: RGBImage,
    reference: RGBImage,
    params: Params,
    backbone: str,
) -> Float[Array, ""]:
    """Returns the distance: 0 for identical images, about 1 for very different ones.

    The gradient by either image is finite everywhere. NaN if one of them is not finite.

    Args:
      image: RGB in [0, 1].
      reference: likewise.
      params: as `lpips_params` returns them.
      backbone: one of `BACKBONES`.

    Raises:
      UserError: the images are too small for the backbone.
    """
    layers = lpips_layers(image, reference, params, backbone)
    return nan_unless_finite(layers.sum(), image, reference)


def lpips_layers(
    image: RGBImage,
    reference: RGBImage,
    params: Params,
    backbone: str,
) -> Float[Array, " taps"]:
    """Returns the terms that `lpips` adds up, one for each tap."""
    check_pair(image, reference, rgb=True)
    pairs = jnp.stack([image, reference])
    scaled = (2 * pairs - 1 - jnp.array(_SHIFT)) / jnp.array(_SCALE)
    taps = _taps(scaled.astype(jnp.float32), params["convolutions"], BACKBONES[backbone])
    return jnp.stack(
        [_distance(*tap, head) for tap, head in zip(taps, params["heads"], strict=True)]
    )


def _distance(one, other, head):
    difference = _unit(one) - _unit(other)
    return ((difference**2) @ head).mean()


def _unit(activations):
    """Returns the channels of each pixel at length 1, or 0 where all are 0."""
    squares = (activations**2).sum(axis=-1, keepdims=True)
    return activations / (positive_power(squares, 0.5) + 1e-10)


def _taps(images, convolutions, layers):
    """Returns what each tap sees of both images, 2 x height x width x channels."""
    weights, taps = iter(convolutions), []
    for layer in layers:
        match layer:
            case Convolution(side, _, stride, padding):
                _check_size(images, side - 2 * padding)
                images = _convolved(images, next(weights), stride, padding)
            case Fire():
                squeezed = _convolved(images, next(weights))
                few, many = _convolved(squeezed, next(weights)), next(weights)
                images = jnp.concatenate([few, _convolved(squeezed, many, padding=1)], axis=-1)
            case MaxPool(side, ceil):
                _check_size(images, side)
                images = _max_pooled(images, side, ceil)
            case Tap():
                taps.append(images)
    return taps


def _check_size(images, least):
    if min(images.shape[1:3]) < least:
        raise UserError("LPIPS: the images are too small for its network; 35 x 35 pixels will do")


def _convolved(images, weights, stride=1, padding=0):
    pads = (padding, padding)
    images = direct_convolution(images, weights["kernel"], stride, pads, precision="highest")
    return jax.nn.relu(images + weights["bias"])


def _max_pooled(images, side, ceil):
    overhang = [-(size - side) % 2 if ceil else 0 for size in images.shape[1:3]]
    return nn.max_pool(images, (side, side), (2, 2), [(0, more) for more in overhang])


def lpips_params(
    backbone: str,
    kernels: Sequence[np.ndarray],
    biases: Sequence[np.ndarray],
    heads: Sequence[np.ndarray],
    where: str,
) -> Params:
    """Returns the weights as `lpips` takes them.

    Args:
      backbone: one of `BACKBONES`.
      kernels: of all convolutions in their order, rows x columns x inputs x outputs; of a fire:
        squeeze, expand 1 x 1, expand 3 x 3.
      biases: one number for each output.
      heads: one non-negative number for each channel of each tap.
      where: what the error calls them by.

    Raises:
      UserError: there are more or less, or of other shapes.
    """
    given = {
        f"{name} {i}": array.shape
        for name, arrays in {"kernel": kernels, "bias": biases, "head": heads}.items()
        for i, array in enumerate(arrays)
    }
    check_shapes(given, _shapes(BACKBONES[backbone]), where)
    convolutions = zip(kernels, biases, strict=True)
    return {
        "convolutions": [{"kernel": kernel, "bias": bias} for kernel, bias in convolutions],
        "heads": list(heads),
    }


def _shapes(layers) -> Mapping[str, tuple[int, ...]]:
    kernels, heads, inputs = [], [], 3
    for layer in layers:
        match layer:
            case Convolution(side, channels):
                kernels.append((side, side, inputs, channels))
                inputs = channels
            case Fire(squeezed, expanded):
                kernels.append((1, 1, inputs, squeezed))
                kernels += [(side, side, squeezed, expanded) for side in (1, 3)]
                inputs = 2 * expanded
            case Tap():
                heads.append((inputs,))
    return {
        **{f"kernel {i}": shape for i, shape in enumerate(kernels)},
        **{f"bias {i}": shape[-1:] for i, shape in enumerate(kernels)},
        **{f"head {i}": shape for i, shape in enumerate(heads)},
    }
