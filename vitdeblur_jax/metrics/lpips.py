"""LPIPS, version 0.1: Zhang, Isola, Efros, Shechtman, Wang, CVPR 2018.

The distance between the features of two images in a classification network. A backbone is a
sequence of layers; its taps mark the layers whose outputs are compared.
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
    """A convolution with bias, followed by a ReLU."""

    side: int
    channels: int
    stride: int = 1
    padding: int = 1


class Fire(NamedTuple):
    """SqueezeNet's fire module: a 1 x 1 squeeze, then 1 x 1 and 3 x 3 expansions; all with ReLUs.

    Attributes:
      squeezed: Output channels of the squeeze.
      expanded: Output channels of each expansion.
    """

    squeezed: int
    expanded: int


class MaxPool(NamedTuple):
    """Max pooling with stride 2; `ceil` keeps windows that extend past the edge."""

    side: int
    ceil: bool = False


class Tap(NamedTuple):
    """Marks the previous layer's output for comparison."""


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

    The gradient with respect to either image is finite everywhere. The distance is NaN if an image
    is not finite.

    Args:
      image: RGB in [0, 1].
      reference: RGB in [0, 1].
      params: The weights, from `lpips_params`.
      backbone: A key of `BACKBONES`.

    Raises:
      UserError: The images are too small for the backbone.
    """
    layers = lpips_layers(image, reference, params, backbone)
    return nan_unless_finite(layers.sum(), image, reference)


def lpips_layers(
    image: RGBImage,
    reference: RGBImage,
    params: Params,
    backbone: str,
) -> Float[Array, " taps"]:
    """Returns the terms of the sum that `lpips` returns, one per tap."""
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
    """Returns each pixel's channels scaled to length 1; zero vectors remain zero."""
    squares = (activations**2).sum(axis=-1, keepdims=True)
    return activations / (positive_power(squares, 0.5) + 1e-10)


def _taps(images, convolutions, layers):
    """Returns the features of both images at each tap, `(2, height, width, channels)`."""
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
        raise UserError("LPIPS: the images are too small for its network; use 35 x 35 or more")


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
    """Returns the weights for `lpips`.

    Args:
      backbone: A key of `BACKBONES`.
      kernels: The kernels of all convolutions in order, rows x columns x inputs x outputs. The
        order in a fire module is squeeze, expand 1 x 1, expand 3 x 3.
      biases: The biases of all convolutions, one number per output.
      heads: The weights of all taps, one non-negative number per channel.
      where: Name of the weights in error messages.

    Raises:
      UserError: An array is missing, unexpected or of a wrong shape.
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
