"""CKDN: Zheng, Yang, Fu, Zha, Luo, ICCV 2021, as pyiqa computes it.

"Conditional knowledge distillation": one network encodes the image, another of the same
architecture encodes the reference, and a third processes the difference of their features. All
three consist of ResNet's bottleneck blocks.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from vitdeblur_jax.metrics.numerics import RGBImage, check_pair, nan_unless_finite
from vitdeblur_jax.metrics.resizing import resize_antialiased, resize_nearest
from vitdeblur_jax.models.layers.convolution import direct_convolution
from vitdeblur_jax.utils.shapes import check_shapes

_SHORTER_SIDE, _CROP = 329, 288
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Number of bottlenecks, their width, input channels. The output has four times the width.
_STAGES = {"qse_2": (3, 64, 64), "dte_2": (3, 64, 64), "csp": (4, 128, 256)}
_HEAD = ((2048, 512), (2048, 2048), (1, 2048))

Params = dict[str, Any]


def ckdn(image: RGBImage, reference: RGBImage, params: Params) -> Float[Array, ""]:
    """Returns the score, from 0 to 1, higher is better; it is not symmetric.

    Images can have any size. The score is NaN if an image is not finite.

    Args:
      image: The restored image, RGB in [0, 1].
      reference: The reference, RGB in [0, 1]. The paper uses the degraded image; pyiqa leaves the
        choice to its caller.
      params: The weights, from `ckdn_params`.
    """
    check_pair(image, reference, rgb=True)
    seen = encode(preprocess(image), params["qse_1"], params["qse_2"])
    wanted = encode(preprocess(reference, is_reference=True), params["dte_1"], params["dte_2"])
    logit = regress(pool(seen - wanted, params["csp"]), params["head"])
    return nan_unless_finite(jax.nn.sigmoid(logit), image, reference)


def preprocess(image: RGBImage, is_reference: bool = False) -> Float[Array, "288 288 3"]:
    """Returns a normalized center crop of the image, resized to 329 pixels on the shorter side.

    A reference is resized with nearest-neighbor interpolation, as in the authors' code.
    """
    height, width = image.shape[:2]
    size = tuple(_SHORTER_SIDE * side // min(height, width) for side in (height, width))
    resize = resize_nearest if is_reference else resize_antialiased
    middle = (slice(first, first + _CROP) for first in (round((n - _CROP) / 2) for n in size))
    crop = resize(jnp.asarray(image, jnp.float32), *size, *middle)
    return (crop - jnp.array(_MEAN, jnp.float32)) / jnp.array(_DEVIATION, jnp.float32)


def encode(
    image: Float[Array, "288 288 3"], kernel: Float[ArrayLike, "7 7 3 64"], blocks: list[Params]
) -> Float[Array, "72 72 256"]:
    """Returns the features of a ResNet-50 after its first stage; the stem has no norm here."""
    x = stem(image, kernel)[None]
    x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    for block in blocks:
        x = _bottleneck(x, block)
    return x[0]


def stem(
    image: Float[Array, "288 288 3"], kernel: Float[ArrayLike, "7 7 3 64"]
) -> Float[Array, "144 144 64"]:
    """Returns the first convolution's output."""
    return _convolved(image[None], kernel, stride=2)[0]


def compare(difference: Float[Array, "72 72 256"], blocks: list[Params]) -> Float[Array, "36 36 _"]:
    """Returns the third network's features of the difference of image and reference."""
    x = _bottleneck(difference[None], blocks[0], stride=2)
    for block in blocks[1:]:
        x = _bottleneck(x, block)
    return x[0]


def pool(difference: Float[Array, "72 72 256"], blocks: list[Params]) -> Float[Array, "512"]:
    """Returns the output of `compare`, averaged over the pixels."""
    return compare(difference, blocks).mean(axis=(0, 1))


def regress(pooled: Float[Array, "512"], layers: list[Params]) -> Float[Array, ""]:
    """Returns the logit of the score."""
    for i, layer in enumerate(layers):
        x = jax.nn.relu(pooled) if i else pooled
        pooled = jnp.matmul(x, layer["kernel"], precision="highest") + layer["bias"]
    return pooled[0]


def _bottleneck(x, params, stride=1):
    main = jax.nn.relu(_convolved(x, **params["conv1"]))
    main = jax.nn.relu(_convolved(main, **params["conv2"], stride=stride))
    main = _convolved(main, **params["conv3"])
    aside = _convolved(x, **params["downsample"], stride=stride) if "downsample" in params else x
    return jax.nn.relu(main + aside)


def _convolved(x, kernel, bias=0, stride=1):
    padding = kernel.shape[0] // 2
    return direct_convolution(x, kernel, stride, (padding, padding), precision="highest") + bias


def ckdn_params(state_dict: Mapping[str, Any], where: str) -> Params:
    """Returns the weights for `ckdn`, with batch norms folded into the convolutions.

    Args:
      state_dict: The entries of pyiqa's file, any float dtype, or of the authors' file, which nests
        them under "state_dict" and prefixes their names with "module.". Entries that only training
        needs are ignored.
      where: Name of the file in error messages.

    Raises:
      UserError: An entry is missing or has a wrong shape.
    """
    state_dict = state_dict.get("state_dict", state_dict)
    used = {_plain(name): array for name, array in state_dict.items() if _is_used(_plain(name))}
    check_shapes({name: np.shape(array) for name, array in used.items()}, _shapes(), where)
    used = {name: np.asarray(array, np.float32) for name, array in used.items()}
    params: Params = {
        name: used[f"net.{name}.weight"].transpose(2, 3, 1, 0) for name in ("qse_1", "dte_1")
    }
    for stage, (count, *_) in _STAGES.items():
        params[stage] = [_folded_block(used, f"net.{stage}.{i}") for i in range(count)]
    params["head"] = [
        {"kernel": used[f"net.fc_.{i}.weight"].T, "bias": used[f"net.fc_.{i}.bias"]}
        for i in (0, 3, 6)
    ]
    return params


def _plain(name):
    return "net." + name.removeprefix("module.").removeprefix("net.")


def _is_used(name):
    is_for_training = name.startswith(("net.aux_csp.", "net.fc1_."))
    return not is_for_training and not name.endswith("num_batches_tracked")


def _folded_block(weights, block):
    parts = {f"conv{i}": (f"conv{i}", f"bn{i}") for i in (1, 2, 3)}
    if f"{block}.downsample.0.weight" in weights:
        parts["downsample"] = ("downsample.0", "downsample.1")
    return {
        name: _folded(weights, f"{block}.{convolution}", f"{block}.{norm}")
        for name, (convolution, norm) in parts.items()
    }


def _folded(weights, convolution, norm):
    """Returns a convolution that equals the given one followed by its batch norm."""
    scale = weights[f"{norm}.weight"] / np.sqrt(weights[f"{norm}.running_var"] + 1e-5)
    kernel = weights[f"{convolution}.weight"].transpose(2, 3, 1, 0) * scale
    return {
        "kernel": kernel,
        "bias": weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale,
    }


def _shapes() -> dict[str, tuple[int, ...]]:
    kernels = {f"net.{name}.weight": (64, 3, 7, 7) for name in ("qse_1", "dte_1")}
    norms = {}
    for stage, (count, width, inputs) in _STAGES.items():
        for i in range(count):
            block, wide = f"net.{stage}.{i}", 4 * width
            kernels[f"{block}.conv1.weight"] = (width, wide if i else inputs, 1, 1)
            kernels[f"{block}.conv2.weight"] = (width, width, 3, 3)
            kernels[f"{block}.conv3.weight"] = (wide, width, 1, 1)
            norms |= {f"{block}.bn1": width, f"{block}.bn2": width, f"{block}.bn3": wide}
        kernels[f"net.{stage}.0.downsample.0.weight"] = (4 * width, inputs, 1, 1)
        norms[f"net.{stage}.0.downsample.1"] = 4 * width
    for i, shape in zip((0, 3, 6), _HEAD, strict=True):
        kernels |= {f"net.fc_.{i}.weight": shape, f"net.fc_.{i}.bias": shape[:1]}
    leaves = ("weight", "bias", "running_mean", "running_var")
    return kernels | {f"{name}.{leaf}": (n,) for name, n in norms.items() for leaf in leaves}
