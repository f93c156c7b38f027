"""Conversion between our variables and the state dict of the released PyTorch code.

The released network takes BGR images, but normalizes them with ImageNet's constants in the order R,
G, B. Ours takes RGB with the correct normalization. This module folds the difference into three
kernels and two biases, so that both compute the same. The folding is exact up to rounding: after a
round trip, an entry of the patch kernel has a relative error of at most 1.2e-7. The patch bias has
an error of at most 1e-6 (|bias| + sum of |kernel entries|). All other entries are exact.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from vitdeblur_jax.models.network import abstract_variables
from vitdeblur_jax.models.published import StateDict
from vitdeblur_jax.models.vitdeblur.position_embedding import (
    resize_position_embedding,
    sincos_position_embedding,
)
from vitdeblur_jax.models.vitdeblur.tokenizer import IMAGENET_MEAN, IMAGENET_STD
from vitdeblur_jax.utils.errors import UserError

_ENCODER = "primary_encoder.pretrain_mae"
POSITION = f"{_ENCODER}.pos_embed"
_PATCH = f"{_ENCODER}.patch_embed.proj"
_CLASS_TOKEN = f"{_ENCODER}.cls_token"
_INPUT, _OUTPUT = "inputecoding_step", "outputprojr_step"


def from_published(model: nn.Module, state_dict: StateDict) -> dict:
    """Returns float32 variables.

    Args:
      model: The network.
      state_dict: The entries of `published_shapes`, in any float dtype. If there is no position
        table, the reference's table is computed.
    """
    names = published_names(model)
    if POSITION not in state_dict:
        state_dict = {**state_dict, POSITION: np.asarray(_resized_table(None, model))[None]}
    rgb = _swap_rgb_and_bgr(
        {name: np.asarray(state_dict[name], np.float32) for name in names.values()}
    )
    flat = {path: _to_ours(rgb[name], path) for path, name in names.items()}
    return traverse_util.unflatten_dict(flat)


def to_published(model: nn.Module, variables: dict) -> dict[str, np.ndarray]:
    """Returns a state dict that the reference can load with `strict=True`.

    Entries that the reference stores but does not use are zeros.
    """
    flat = traverse_util.flatten_dict(variables)
    names = published_names(model)
    rgb = {name: _to_reference(np.asarray(flat[path]), path) for path, name in names.items()}
    return {**_unused_zeros(model), **_swap_rgb_and_bgr(rgb)}


def published_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Returns names and PyTorch shapes of all entries that the network uses."""
    ours = traverse_util.flatten_dict(abstract_variables(model))
    return {
        name: _to_reference(np.broadcast_to(np.float32(0), ours[path].shape), path).shape
        for path, name in published_names(model).items()
    }


def encoder_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Returns names and shapes of the tokenizer and primary encoder in MAE's weights."""
    return {
        name.removeprefix(f"{_ENCODER}."): shape
        for name, shape in published_shapes(model).items()
        if name.startswith(f"{_ENCODER}.") and name != POSITION
    }


def encoder_from_pretraining(
    model: nn.Module, state_dict: StateDict, where: str
) -> dict[tuple[str, ...], jnp.ndarray]:
    """Returns variables of tokenizer and primary encoder from weights of MAE or TinyMIM.

    These networks take RGB, so no folding is needed. The position table is resized from the table
    in the file, or from the sin-cos table if the file has none.

    Args:
      model: The network to initialize.
      state_dict: The entries of `encoder_shapes`: "model" of `mae_pretrain_vit_base.pth`, or
        TinyMIM's.
      where: The file's name, for errors.

    Returns:
      The variables by path.

    Raises:
      UserError: The grid of the position table is not square.
    """
    flat = {}
    for path, name in published_names(model).items():
        if name.startswith(f"{_ENCODER}.") and name != POSITION:
            value = np.asarray(state_dict[name.removeprefix(f"{_ENCODER}.")], np.float32)
            flat[path] = jnp.asarray(_to_ours(value, path))
    table = state_dict.get("pos_embed")
    if table is not None:
        _check_table(table, model.primary_encoder.width, where)
    flat["position_embedding", "tokenizer", "table"] = _resized_table(table, model)
    return flat


def published_names(model: nn.Module) -> dict[tuple[str, ...], str]:
    """Returns the reference's name of each of our variables, by path."""
    names = {
        ("params", "tokenizer", "class_token"): _CLASS_TOKEN,
        ("position_embedding", "tokenizer", "table"): POSITION,
        ("params", "contextual_encoder", "blur_parameter"): "contextual_encoder.blur_parameter",
    }

    def linear(path, name, bias=True):
        names["params", *path, "kernel"] = f"{name}.weight"
        if bias:
            names["params", *path, "bias"] = f"{name}.bias"

    def norm(path, name):
        names["params", *path, "scale"] = f"{name}.weight"
        names["params", *path, "bias"] = f"{name}.bias"

    def blocks(part, depth, name):
        for i in range(depth):
            path, block = (part, f"blocks_{i}"), f"{name}.{i}"
            norm((*path, "attention_norm"), f"{block}.norm1")
            linear((*path, "attention", "qkv"), f"{block}.attn.qkv")
            linear((*path, "attention", "output"), f"{block}.attn.proj")
            norm((*path, "mlp_norm"), f"{block}.norm2")
            linear((*path, "mlp", "fc1"), f"{block}.mlp.fc1")
            linear((*path, "mlp", "fc2"), f"{block}.mlp.fc2")

    linear(("tokenizer", "patch_embedding"), _PATCH)
    blocks("primary_encoder", model.primary_encoder.depth, f"{_ENCODER}.blocks")

    blocks("contextual_encoder", model.contextual_encoder.depth, "contextual_encoder.embed_blocks")
    norm(("contextual_encoder", "norm"), "contextual_encoder.embed_norm")
    norm(("contextual_encoder", "sharpness_norm"), "contextual_encoder.fc_norm")
    linear(("contextual_encoder", "sharpness"), "contextual_encoder.head")
    projector = ("contextual_encoder", "projector")
    linear((*projector, "hidden"), "contextual_encoder.projector.0")
    norm((*projector, "batch_norm"), "contextual_encoder.projector.1")
    for ours, theirs in (("mean", "running_mean"), ("var", "running_var")):
        path = ("batch_stats", *projector, "batch_norm", ours)
        names[path] = f"contextual_encoder.projector.1.{theirs}"
    linear((*projector, "output"), "contextual_encoder.projector.3", bias=False)

    norm(("decoder", "primary_norm"), "decoder.decoder_dnorm1")
    norm(("decoder", "contextual_norm"), "decoder.decoder_anorm")
    for i in range(model.decoder.depth):
        fusion = f"decoder.decoder_linears.{i}"
        names["params", "decoder", f"fusions_{i}", "scale"] = f"{fusion}.0.weight"
        names["params", "decoder", f"fusions_{i}", "shift"] = f"{fusion}.0.bias"
        linear(("decoder", f"fusions_{i}"), f"{fusion}.1")
    blocks("decoder", model.decoder.depth, "decoder.embed_blocks")
    norm(("decoder", "norm"), "decoder.decoder_norm")
    linear(("decoder", "prediction"), "decoder.decoder_pred")

    linear(("image_head", "input_convolution"), _INPUT)
    linear(("image_head", "output_convolution"), _OUTPUT)
    return names


def _unused_zeros(model) -> dict[str, np.ndarray]:
    """Returns zeros for the entries that strict loading requires but the network does not use."""
    encoder = model.primary_encoder
    width, hidden = encoder.width, encoder.mlp_ratio * encoder.width
    shapes = {
        f"{_ENCODER}.mask_token": (1, 1, 512),
        f"{_ENCODER}.norm.weight": (width,),
        f"{_ENCODER}.norm.bias": (width,),
        "decoder.decoder_dnorm2.weight": (width,),
        "decoder.decoder_dnorm2.bias": (width,),
    }
    block = f"{_ENCODER}.blocks.{encoder.depth}"
    for layer, shape in {
        "norm1": (width,),
        "attn.qkv": (3 * width, width),
        "attn.proj": (width, width),
        "norm2": (width,),
        "mlp.fc1": (hidden, width),
        "mlp.fc2": (width, hidden),
    }.items():
        shapes[f"{block}.{layer}.weight"] = shape
        shapes[f"{block}.{layer}.bias"] = shape[:1]
    zeros = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    return {**zeros, "contextual_encoder.projector.1.num_batches_tracked": np.zeros((), np.int64)}


def _to_ours(value, path):
    """Converts an array from PyTorch's layout to ours."""
    if path[-1] in ("class_token", "table"):
        return value.reshape(value.shape[1:] if path[-1] == "table" else value.shape[2:])
    if path[-1] == "kernel":
        return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
    return value


def _to_reference(value, path):
    """Converts an array from our layout to PyTorch's."""
    if path[-1] in ("class_token", "table"):
        return value.reshape((1,) * (3 - value.ndim) + value.shape)
    if path[-1] == "kernel":
        return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
    return value


def _swap_rgb_and_bgr(state_dict: StateDict) -> dict[str, np.ndarray]:
    """Converts weights for BGR images to weights for RGB images; it is its own inverse.

    The reference computes W[c] * (x[c] - m[c]) / s[c], where x[c] is the BGR channel c, and m and s
    are in RGB order. The same color is our channel k = 2 - c, normalized as n[k] = (x - m[k]) /
    s[k]. So the kernel becomes W[c] * s[k] / s[c], and W[c] * (m[k] - m[c]) / s[c] is added to the
    bias.
    """
    mean, std = IMAGENET_MEAN.astype(np.float64), IMAGENET_STD.astype(np.float64)
    kernel = state_dict[f"{_PATCH}.weight"].astype(np.float64)
    reversed_kernel = kernel[:, ::-1] * (std / std[::-1])[:, None, None]
    moved = kernel * ((mean[::-1] - mean) / std)[:, None, None]
    bias = state_dict[f"{_PATCH}.bias"] + moved.sum(axis=(1, 2, 3))
    head = state_dict[f"{_INPUT}.weight"]
    views = head.reshape(head.shape[0], 2, 3, *head.shape[2:])[:, :, ::-1]
    return {
        **state_dict,
        f"{_PATCH}.weight": reversed_kernel.astype(np.float32),
        f"{_PATCH}.bias": bias.astype(np.float32),
        f"{_INPUT}.weight": views.reshape(head.shape),
        f"{_OUTPUT}.weight": state_dict[f"{_OUTPUT}.weight"][::-1],
        f"{_OUTPUT}.bias": state_dict[f"{_OUTPUT}.bias"][::-1],
    }


def _resized_table(table, model):
    grid, width = model.tokenizer.position_grid, model.primary_encoder.width
    if table is None:
        table = sincos_position_embedding(model.tokenizer.pretraining_grid, width)
    table = jnp.asarray(np.asarray(table, np.float32).reshape(-1, width))
    return resize_position_embedding(table, grid, grid)


def _check_table(table, width, where):
    side = math.isqrt(max(0, table.size // width - 1))
    if table.shape != (1, 1 + side**2, width):
        raise UserError(
            f"{where} does not fit the model: pos_embed is {table.shape}, should be a square grid "
            f"and a class token, {width} wide"
        )
