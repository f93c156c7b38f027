"""MUSIQ for KonIQ-10k: Ke, Wang, Wang, Milanfar, Yang, ICCV 2021, as pyiqa computes it.

A transformer over the patches of an image at three scales. It needs no reference.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from vitdeblur_jax.metrics.numerics import RGBImage, check_single, nan_unless_finite
from vitdeblur_jax.metrics.resizing import resize_bicubic
from vitdeblur_jax.models.layers.attention import dot_product_attention
from vitdeblur_jax.models.layers.convolution import direct_convolution
from vitdeblur_jax.utils.shapes import check_shapes

_LONGER_SIDES = (224, 384)  # of the smaller scales; the third scale is the original size
_PATCH = 32
_POSITIONS = 10  # side of the position table
_WIDTH, _HEADS, _BLOCKS, _HIDDEN = 384, 6, 14, 1152
_CHANNELS, _WIDE_CHANNELS = 64, 256  # within a patch
_GROUPS = 32
_PATCHES_AT_ONCE = 64

Params = dict[str, Any]
_convolution = functools.partial(direct_convolution, precision="highest")


def musiq(image: RGBImage, params: Params) -> Float[Array, ""]:
    """Returns the score, higher is better; about 0 to 100 with the published weights.

    Images can have any size; time and memory grow with it. The score is NaN if the image is not
    finite.

    Args:
      image: RGB in [0, 1].
      params: The weights, from `musiq_params`.
    """
    check_single(image)
    tokens = with_places(embed(patches_of_scales(image), params), *image.shape[:2], params)

    def next_block(tokens, block):
        return transformer_block(tokens, block), None

    # A scan compiles one block instead of 14, and each image size needs its own compilation.
    tokens, _ = jax.lax.scan(next_block, tokens, params["blocks"])
    return nan_unless_finite(score(tokens, params), image)


def scale_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """Returns the height and width of the three scales."""
    factors = [side / max(height, width) for side in _LONGER_SIDES]
    smaller = [(max(round(height * f), 1), max(round(width * f), 1)) for f in factors]
    return [*smaller, (height, width)]


def grid(height: int, width: int) -> tuple[int, int]:
    """Returns the rows and columns of patches in an image of that size."""
    return -(-height // _PATCH), -(-width // _PATCH)


def patches_of_scales(image: RGBImage) -> Float[Array, "patches 32 32 3"]:
    """Returns the patches of all scales, row by row, in [-1, 1], with zero padding."""
    image = 2 * jnp.asarray(image, jnp.float32) - 1
    *smaller, _ = scale_sizes(*image.shape[:2])
    images = [*(resize_bicubic(image, *size) for size in smaller), image]
    return jnp.concatenate([_patches(picture) for picture in images])


def _patches(image):
    rows, columns = grid(*image.shape[:2])
    missing = [
        count * _PATCH - n for count, n in zip((rows, columns), image.shape[:2], strict=True)
    ]
    pads = [(count // 2, count - count // 2) for count in missing]
    padded = jnp.pad(image, (*pads, (0, 0)))
    cut = padded.reshape(rows, _PATCH, columns, _PATCH, 3).transpose(0, 2, 1, 3, 4)
    return cut.reshape(-1, _PATCH, _PATCH, 3)


def embed(
    patches: Float[Array, "patches 32 32 3"], params: Params
) -> Float[Array, "patches width"]:
    """Returns a vector per patch, from a small residual network and a linear layer."""
    return jax.lax.map(
        lambda patch: _embed_one(patch[None], params)[0], patches, batch_size=_PATCHES_AT_ONCE
    )


def _embed_one(patch, params):
    x = _convolution(patch, params["conv_root"], stride=2, padding=(2, 3))
    x = jax.nn.relu(_group_norm(x, params["gn_root"], 1e-6))
    x = nn.max_pool(x, (3, 3), (2, 2), ((0, 1), (0, 1)))
    block = params["block1"]

    def normed(x, index, padding=(0, 0)):
        x = _convolution(x, block[f"conv{index}"], padding=padding)
        return _group_norm(x, block[f"gn{index}"], 1e-4)

    main = jax.nn.relu(normed(x, "1"))
    main = normed(jax.nn.relu(normed(main, "2", padding=(1, 1))), "3")
    x = jax.nn.relu(main + normed(x, "_proj"))
    return _linear(x.reshape(len(x), -1), params["embedding"])


def with_places(
    embedded: Float[Array, "patches width"], height: int, width: int, params: Params
) -> Float[Array, "tokens width"]:
    """Returns the class token, then the patches plus their position and scale embeddings."""
    sizes = scale_sizes(height, width)
    positions = np.concatenate([positions_of(*grid(*size)) for size in sizes])
    scales = np.repeat(np.arange(len(sizes)), [np.prod(grid(*size)) for size in sizes])
    tokens = embedded + params["position"][positions] + params["scale"][scales]
    return jnp.concatenate([params["class_token"], tokens])


def positions_of(rows: int, columns: int) -> Integer[np.ndarray, " patches"]:
    """Returns each patch's row in the position table, which has 10 x 10 cells.

    float32 arithmetic gives other cells than exact arithmetic for a side of 205 patches and a few
    other sides.
    """

    def cells(count):
        step = np.float32(_POSITIONS / count)
        return np.floor(np.arange(count, dtype=np.float32) * step).astype(int)

    return (_POSITIONS * cells(rows)[:, None] + cells(columns)).reshape(-1)


def transformer_block(
    tokens: Float[Array, "tokens width"], params: Params
) -> Float[Array, "tokens width"]:
    """Returns the tokens after self-attention and an MLP, both with residual connections."""
    normed = _layer_norm(tokens, params["norm1"])
    attention = params["attention"]
    queries, keys, values = (
        _linear(normed, attention[name]).reshape(1, len(tokens), _HEADS, -1)
        for name in ("query", "key", "value")
    )
    mixed = dot_product_attention(queries, keys, values, precision="highest")
    tokens = tokens + _linear(mixed.reshape(tokens.shape), attention["out"])
    hidden = _linear(_layer_norm(tokens, params["norm2"]), params["mlp"]["fc1"])
    return tokens + _linear(jax.nn.gelu(hidden, approximate=False), params["mlp"]["fc2"])


def score(tokens: Float[Array, "tokens width"], params: Params) -> Float[Array, ""]:
    """Returns the score, a linear function of the class token after the last block."""
    return _linear(_layer_norm(tokens[:1], params["encoder_norm"]), params["head"])[0, 0]


def _group_norm(x, params, epsilon):
    grouped = x.reshape(*x.shape[:-1], _GROUPS, -1)
    normed = jax.nn.standardize(grouped, axis=(1, 2, 4), epsilon=epsilon)
    return normed.reshape(x.shape) * params["weight"] + params["bias"]


def _layer_norm(x, params):
    return jax.nn.standardize(x, epsilon=1e-6) * params["weight"] + params["bias"]


def _linear(x, params):
    return jnp.matmul(x, params["weight"], precision="highest") + params["bias"]


def musiq_params(state_dict: Mapping[str, Any], where: str) -> Params:
    """Returns the weights for `musiq`, with the convolutions of the patch network standardized.

    Args:
      state_dict: The entries of pyiqa's `musiq_koniq` file with its unstandardized kernels, any
        float dtype; they may be nested under "params".
      where: Name of the file in error messages.

    Raises:
      UserError: An entry is missing, unexpected or of a wrong shape.
    """
    state_dict = state_dict.get("params", state_dict)
    check_shapes({name: np.shape(array) for name, array in state_dict.items()}, _shapes(), where)
    tree: Params = {}
    for name, array in state_dict.items():
        array = np.asarray(array, np.float32)
        *path, leaf = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = array.T if array.ndim == 2 and leaf == "weight" else array
    encoder = tree["transformer_encoder"]
    kernels = {
        name: _standardised(layer["weight"]) for name, layer in _convolutions(tree["block1"])
    }
    blocks = [encoder["transformer"][f"encoderblock_{i}"] for i in range(_BLOCKS)]
    return {
        "conv_root": _standardised(tree["conv_root"]["weight"]),
        "gn_root": tree["gn_root"],
        "block1": {**tree["block1"], **kernels},
        "embedding": tree["embedding"],
        "class_token": encoder["cls"][0],
        "position": encoder["posembed_input"]["position_emb"][0],
        "scale": encoder["scaleembed_input"]["scale_emb"],
        "blocks": jax.tree.map(lambda *layers: np.stack(layers), *blocks),
        "encoder_norm": encoder["encoder_norm"],
        "head": tree["head"],
    }


def _convolutions(block):
    return [(name, layer) for name, layer in block.items() if name.startswith("conv")]


def _standardised(kernel):
    """Standardizes a kernel per output channel; takes PyTorch's layout, returns Flax's."""
    centred = kernel - kernel.mean(axis=(1, 2, 3), keepdims=True)
    deviation = kernel.std(axis=(1, 2, 3), ddof=1, keepdims=True)
    return (centred / (deviation + 1e-5)).transpose(2, 3, 1, 0)


def _shapes() -> dict[str, tuple[int, ...]]:
    narrow, wide = _CHANNELS, _WIDE_CHANNELS
    shapes = {
        "conv_root.weight": (narrow, 3, 7, 7),
        "block1.conv1.weight": (narrow, narrow, 1, 1),
        "block1.conv2.weight": (narrow, narrow, 3, 3),
        "block1.conv3.weight": (wide, narrow, 1, 1),
        "block1.conv_proj.weight": (wide, narrow, 1, 1),
        "transformer_encoder.cls": (1, 1, _WIDTH),
        "transformer_encoder.posembed_input.position_emb": (1, _POSITIONS**2, _WIDTH),
        "transformer_encoder.scaleembed_input.scale_emb": (3, _WIDTH),
    }
    norms = {"gn_root": narrow, "block1.gn1": narrow, "block1.gn2": narrow, "block1.gn3": wide}
    norms |= {"block1.gn_proj": wide, "transformer_encoder.encoder_norm": _WIDTH}
    linears = {"embedding": (_WIDTH, wide * (_PATCH // 4) ** 2), "head": (1, _WIDTH)}
    for i in range(_BLOCKS):
        block = f"transformer_encoder.transformer.encoderblock_{i}"
        norms |= {f"{block}.norm1": _WIDTH, f"{block}.norm2": _WIDTH}
        for name in ("query", "key", "value", "out"):
            linears[f"{block}.attention.{name}"] = (_WIDTH, _WIDTH)
        linears[f"{block}.mlp.fc1"] = (_HIDDEN, _WIDTH)
        linears[f"{block}.mlp.fc2"] = (_WIDTH, _HIDDEN)
    for name, size in norms.items():
        shapes |= {f"{name}.weight": (size,), f"{name}.bias": (size,)}
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes
