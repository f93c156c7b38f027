"""Deterministic stand-in weights for the networks of metrics, rebuilt from names and shapes.

The rule is that of `tests/stand_in_weights.py` but for gains, which were chosen so that no network
saturates or ignores its image.
"""

import json
import zlib
from pathlib import Path

import numpy as np

DATA = Path(__file__).parents[1] / "data" / "metrics"


def stand_in_state_dict(network: str, seed: int) -> dict[str, np.ndarray]:
    """Returns a state dict in PyTorch's layouts, float32.

    `network` is "musiq_koniq", "ckdn" or "lpips_squeeze".
    """
    shapes = json.loads((DATA / f"{network}_shapes.json").read_text())
    return {name: _fill(name, tuple(shape), seed) for name, shape in shapes.items()}


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
        case "cls" | "position_emb" | "scale_emb":
            value = 0.25 * noise
        case "bias":
            value = 0.02 * noise
        case _ if len(shape) == 1:
            value = 1 + 0.1 * noise
        case _ if name.startswith("lin"):  # heads of LPIPS are not negative
            value = 0.1 * np.abs(noise)
        case _:
            value = _gain(name) * noise / np.sqrt(np.prod(shape[1:]))
    return value.astype(np.float32)


def _gain(name: str) -> float:
    is_doubled = name.startswith(("features.", "net.fc")) or name.endswith(
        ("attention.value.weight", "attention.out.weight")
    )
    return float(np.sqrt(2)) if is_doubled else 1.0
