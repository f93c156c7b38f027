"""Deterministic stand-in weights for the reference's network.

The golden files were measured with them. Any machine rebuilds them from names and shapes alone, so
that parity can be tested without the authors' weights.
"""

import json
import zlib
from pathlib import Path

import numpy as np

SHAPES = Path(__file__).parent / "data" / "state_dict_shapes.json"


def reference_state_dict(seed: int) -> dict[str, np.ndarray]:
    """Returns all entries but the position table, float32, in the reference's names and layouts."""
    shapes = json.loads(SHAPES.read_text())
    return {
        name: _fill(name, tuple(shape), seed)
        for name, shape in shapes.items()
        if not name.endswith("pos_embed")
    }


def _fill(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
    noise, leaf = rng.standard_normal(shape), name.rsplit(".", 1)[-1]
    match leaf:
        case "num_batches_tracked":
            return np.zeros((), np.int64)
        case "running_mean":
            value = 0.1 * noise
        case "running_var":
            value = 1 + 0.1 * np.abs(noise)
        case "blur_parameter":
            value = 1 + 0.5 * noise
        case "cls_token" | "mask_token" | "bias":
            value = 0.02 * noise
        case "weight" if len(shape) == 1:
            value = 1 + 0.1 * noise
        case _:
            value = noise / np.sqrt(np.prod(shape[1:]))
    return value.astype(np.float32)
