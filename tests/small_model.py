"""A model small enough for quick tests, none of its variables zero."""

import json
from pathlib import Path

import flax.linen as nn
import jax
import ml_collections
import numpy as np

from vitdeblur_jax.checkpoints.pretrained import Pretrained
from vitdeblur_jax.checkpoints.safetensors_files import write_safetensors
from vitdeblur_jax.models.network import abstract_variables
from vitdeblur_jax.models.networks import complete_config, create_network


def small_configuration(**changes) -> ml_collections.ConfigDict:
    """Returns a config of window 42: 9 x 9 tokens, a map of 36 pixels a side, one block a part.

    Args:
      **changes: Values by key of "model", "tiling" or "numerics"; in `decoder__width`, two
        underscores stand for a dot.
    """
    values = {
        "network": "vitdeblur",
        "model": {
            "tokenizer": {
                "patch_size": 8,
                "patch_stride": 4,
                "position_grid": 10,
                "pretraining_grid": 6,
            },
            "primary_encoder": {"width": 32, "depth": 1, "num_heads": 4},
            "contextual_encoder": {"depth": 1, "num_heads": 2, "projector_widths": (16, 8)},
            "decoder": {"width": 48, "depth": 1, "num_heads": 4},
            "image_head": {"features": 5, "input_kernel": 7, "output_kernel": 5},
        },
        "tiling": {"window": 42, "stride": 30, "margin": 0},
        "numerics": {},
    }
    for key, value in changes.items():
        *groups, name = key.split("__")
        in_group = dict.fromkeys(("window", "stride", "margin", "train_stride"), "tiling")
        in_group |= dict.fromkeys(("dtype", "precision", "remat"), "numerics")
        place = values[in_group.get(name, "model")]
        for group in groups:
            place = place[group]
        place[name] = value
    return complete_config(values)


def write_deep_checkpoint(path: Path, depth: int = 3000) -> None:
    """Writes a file of a few bytes that asks for a model of so many contextual blocks."""
    config = small_configuration().to_dict()
    config["model"]["contextual_encoder"]["depth"] = depth
    write_safetensors(path, {"x": np.zeros(1, np.float32)}, {"config": json.dumps(config)})


def small_pretrained(seed: int = 0, **changes) -> Pretrained:
    """Returns the small model with random variables."""
    model = create_network(small_configuration(**changes))
    return Pretrained(model, random_variables(model, seed), "random")


def random_variables(model: nn.Module, seed: int) -> dict:
    """Returns variables whose kernels keep the scale of what goes through them."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        name, noise = path[-1].key, rng.standard_normal(leaf.shape)
        if name in ("scale", "blur_parameter"):
            value = 1 + 0.2 * noise
        elif name == "var":
            value = 1 + 0.1 * np.abs(noise)
        elif name == "kernel":
            value = noise / np.sqrt(np.prod(leaf.shape[:-1]))
        else:
            value = 0.1 * noise
        return jax.device_put(value.astype(leaf.dtype))

    return jax.tree_util.tree_map_with_path(fill, abstract_variables(model))
