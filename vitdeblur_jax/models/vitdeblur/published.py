"""Conversion between our variables and the state dict of the released PyTorch code.

The released network takes BGR images, but normalizes them with ImageNet's constants in the order R,
G, B. Ours takes RGB with the correct normalization. This module folds the difference into three
kernels and two biases, so that both compute the same. The folding is exact up to rounding: after a
round trip, an entry of the patch kernel has a relative error of at most 1.2e-7. The patch bias has
an error of at most 1e-6 (|bias| + sum of |kernel entries|). All other entries are exact.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from vitdeblur_jax.models import published
from vitdeblur_jax.models.network import abstract_variables
from vitdeblur_jax.models.published import (
    LINEAR,
    Entry,
    Layout,
    Path,
    batch_norm,
    conv,
    joined,
    norm,
)
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
_TABLE_LAYOUT = Layout(lambda value: value[0], lambda value: value[None])
_CLASS_TOKEN_LAYOUT = Layout(lambda value: value[0, 0], lambda value: value[None, None])


def from_published(model: nn.Module, state_dict: published.StateDict) -> dict:
    """Returns float32 variables.

    Args:
      model: The network.
      state_dict: The entries of `published_shapes`, in any float dtype. If there is no position
        table, the reference's table is computed.
    """
    entries = published_entries(model)
    if POSITION not in state_dict:
        state_dict = {**state_dict, POSITION: np.asarray(_resized_table(None, model))[None]}
    rgb = _swap_rgb_and_bgr(
        {name: np.asarray(state_dict[name], np.float32) for name, _ in entries.values()}
    )
    return published.from_published(rgb, entries)


def to_published(model: nn.Module, variables: dict) -> dict[str, np.ndarray]:
    """Returns a state dict that the reference can load with `strict=True`.

    Entries that the reference stores but does not use are zeros. The reference has no
    `patch_overlap`; it refuses a model where that is not 0.
    """
    rgb = published.to_published(variables, published_entries(model))
    return {**_unused_zeros(model), **_swap_rgb_and_bgr(rgb)}


def published_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Returns names and PyTorch shapes of all entries that the network uses."""
    ours = traverse_util.flatten_dict(abstract_variables(model))
    shapes = {path: leaf.shape for path, leaf in ours.items()}
    return published.published_shapes(shapes, published_entries(model))


def encoder_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Returns names and shapes of the tokenizer and primary encoder in MAE's weights."""
    return {
        name.removeprefix(f"{_ENCODER}."): shape
        for name, shape in published_shapes(model).items()
        if name.startswith(f"{_ENCODER}.") and name != POSITION
    }


def encoder_from_pretraining(
    model: nn.Module, state_dict: published.StateDict, where: str
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
    entries = {
        path: Entry(name.removeprefix(f"{_ENCODER}."), layout)
        for path, (name, layout) in published_entries(model).items()
        if name.startswith(f"{_ENCODER}.") and name != POSITION
    }
    encoder = traverse_util.flatten_dict(published.from_published(state_dict, entries))
    flat = jax.device_put(encoder)
    table = state_dict.get("pos_embed")
    if table is not None:
        _check_table(table, model.primary_encoder.width, where)
    flat["position_embedding", "tokenizer", "table"] = _resized_table(table, model)
    return flat


def published_entries(model: nn.Module) -> dict[Path, Entry]:
    """Returns each variable's name and layout in the reference's state dict.

    The entries do not convert BGR to RGB; see `_swap_rgb_and_bgr`.
    """
    context, projector = "contextual_encoder", ("contextual_encoder", "projector")
    fusions = range(model.decoder.depth)
    parts = [
        {
            ("params", "tokenizer", "class_token"): Entry(_CLASS_TOKEN, _CLASS_TOKEN_LAYOUT),
            ("position_embedding", "tokenizer", "table"): Entry(POSITION, _TABLE_LAYOUT),
            ("params", context, "blur_parameter"): Entry(f"{context}.blur_parameter"),
        },
        conv(("tokenizer", "patch_embedding"), _PATCH),
        _blocks("primary_encoder", model.primary_encoder.depth, f"{_ENCODER}.blocks"),
        _blocks(context, model.contextual_encoder.depth, f"{context}.embed_blocks"),
        norm((context, "norm"), f"{context}.embed_norm"),
        norm((context, "sharpness_norm"), f"{context}.fc_norm"),
        _linear((context, "sharpness"), f"{context}.head"),
        _linear((*projector, "hidden"), f"{context}.projector.0"),
        batch_norm((*projector, "batch_norm"), f"{context}.projector.1"),
        _linear((*projector, "output"), f"{context}.projector.3", bias=False),
        norm(("decoder", "primary_norm"), "decoder.decoder_dnorm1"),
        norm(("decoder", "contextual_norm"), "decoder.decoder_anorm"),
        *(_fusion(f"fusions_{i}", f"decoder.decoder_linears.{i}") for i in fusions),
        _blocks("decoder", model.decoder.depth, "decoder.embed_blocks"),
        norm(("decoder", "norm"), "decoder.decoder_norm"),
        _linear(("decoder", "prediction"), "decoder.decoder_pred"),
        conv(("image_head", "input_convolution"), _INPUT),
        conv(("image_head", "output_convolution"), _OUTPUT),
    ]
    return joined(parts)


_linear = functools.partial(conv, layout=LINEAR)


def _blocks(part: str, depth: int, name: str) -> dict[Path, Entry]:
    return joined(_block((part, f"blocks_{i}"), f"{name}.{i}") for i in range(depth))


def _block(path: Path, name: str) -> dict[Path, Entry]:
    return joined(
        [
            norm((*path, "attention_norm"), f"{name}.norm1"),
            _linear((*path, "attention", "qkv"), f"{name}.attn.qkv"),
            _linear((*path, "attention", "output"), f"{name}.attn.proj"),
            norm((*path, "mlp_norm"), f"{name}.norm2"),
            _linear((*path, "mlp", "fc1"), f"{name}.mlp.fc1"),
            _linear((*path, "mlp", "fc2"), f"{name}.mlp.fc2"),
        ]
    )


def _fusion(path: str, name: str) -> dict[Path, Entry]:
    return {
        ("params", "decoder", path, "scale"): Entry(f"{name}.0.weight"),
        ("params", "decoder", path, "shift"): Entry(f"{name}.0.bias"),
        **_linear(("decoder", path), f"{name}.1"),
    }


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


def _swap_rgb_and_bgr(state_dict: published.StateDict) -> dict[str, np.ndarray]:
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
