"""Deterministic stand-in weights for the reference's network.

The golden files were measured with them. Any machine rebuilds them from names and shapes alone, so
that parity can be tested without the authors' weights.
"""

import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

SHAPES = Path(__file__).parent / "data" / "state_dict_shapes.json"

Noise = np.ndarray  # standard normal, in the shape of the entry


def reference_state_dict(seed: int) -> dict[str, np.ndarray]:
    """Returns all entries but the position table, float32, in the reference's names and layouts."""
    state_dict = stand_in_state_dict(SHAPES, seed, _reference_value)
    return {name: array for name, array in state_dict.items() if not name.endswith("pos_embed")}


def stand_in_state_dict(
    shapes: Path,
    seed: int,
    special: Callable[[str, Noise], np.ndarray | None],
    gain: float = 1.0,
) -> dict[str, np.ndarray]:
    """Returns a state dict in PyTorch's layouts, float32.

    `shapes` is a JSON file of all names and shapes. `special` gives the values of entries that the
    common rule does not fill, and None of the others. `gain` multiplies the kernels.
    """
    return {
        name: _fill(name, tuple(shape), seed, special, gain)
        for name, shape in dict(json.loads(shapes.read_text())).items()
    }


def noise_of(name: str, shape: Sequence[int], seed: int) -> Noise:
    """Returns the noise of an entry, which depends on its name and the seed."""
    rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
    return rng.standard_normal(shape)


def _fill(name, shape, seed, special, gain) -> np.ndarray:
    noise, leaf = noise_of(name, shape, seed), name.rsplit(".", 1)[-1]
    value = special(name, noise)
    if value is None:
        match leaf:
            case "num_batches_tracked":
                return np.zeros((), np.int64)
            case "running_mean":
                value = 0.1 * noise
            case "running_var":
                value = 1 + 0.1 * np.abs(noise)
            case "bias":
                value = 0.02 * noise
            case "weight" if len(shape) == 1:
                value = 1 + 0.1 * noise
            case _:
                value = gain * noise / np.sqrt(np.prod(shape[1:]))
    return value.astype(np.float32)


def _reference_value(name: str, noise: Noise) -> np.ndarray | None:
    match name.rsplit(".", 1)[-1]:
        case "blur_parameter":
            return 1 + 0.5 * noise
        case "cls_token" | "mask_token":
            return 0.02 * noise
