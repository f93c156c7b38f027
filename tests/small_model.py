"""A model small enough for quick tests, none of its variables zero."""

import json
from pathlib import Path

import jax
import ml_collections
import numpy as np

from vitdeblur_jax.checkpoints.pretrained import Pretrained
from vitdeblur_jax.checkpoints.safetensors_files import write_safetensors
from vitdeblur_jax.models import ViTDeblur, abstract_variables
from vitdeblur_jax.models.vitdeblur.configuration import complete_configuration


def small_configuration(**changes) -> ml_collections.ConfigDict:
    """Returns a model of window 42: 9 x 9 tokens, a map of 36 pixels a side."""
    values = {
        "window": 42,
        "training_window": 46,
        "patch_size": 8,
        "patch_stride": 4,
        "pretraining_grid": 6,
        "primary_width": 32,
        "primary_depth": 2,
        "primary_heads": 4,
        "contextual_depth": 1,
        "contextual_heads": 2,
        "projector_widths": (16, 8),
        "decoder_width": 48,
        "decoder_depth": 2,
        "decoder_heads": 4,
        "feature_channels": 5,
        "input_kernel": 7,
        "output_kernel": 5,
        "stride": 30,
    }
    return complete_configuration({**values, **changes})


def write_deep_checkpoint(path: Path, depth: int = 3000) -> None:
    """Writes a file of a few bytes that asks for a model of so many contextual blocks."""
    config = {**small_configuration().to_dict(), "contextual_depth": depth}
    write_safetensors(path, {"x": np.zeros(1, np.float32)}, {"config": json.dumps(config)})


def small_pretrained(seed: int = 0, **changes) -> Pretrained:
    """Returns the small model with random variables."""
    config = small_configuration(**changes)
    model = ViTDeblur(**config)
    return Pretrained(model, random_variables(model, seed), "random")


def random_variables(model: ViTDeblur, seed: int) -> dict:
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
        return jax.numpy.asarray(value, leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, abstract_variables(model))
