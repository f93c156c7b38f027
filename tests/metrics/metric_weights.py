"""Deterministic stand-in weights for the networks of metrics, rebuilt from names and shapes.

The gains were chosen so that no network saturates or ignores its image.
"""

from pathlib import Path

import numpy as np

from tests import stand_in_weights

DATA = Path(__file__).parents[1] / "data" / "metrics"


def stand_in_state_dict(network: str, seed: int) -> dict[str, np.ndarray]:
    """Returns a state dict in PyTorch's layouts, float32.

    `network` is "musiq_koniq", "ckdn" or "lpips_squeeze".
    """
    shapes = DATA / f"{network}_shapes.json"
    return stand_in_weights.stand_in_state_dict(shapes, seed, _value)


def _value(name: str, noise: np.ndarray) -> np.ndarray | None:
    if name.rsplit(".", 1)[-1] in ("cls", "position_emb", "scale_emb"):
        return 0.25 * noise
    if name.startswith("lin"):  # heads of LPIPS are not negative
        return 0.1 * np.abs(noise)
    if noise.ndim > 1 and _is_doubled(name):  # the variance
        return np.sqrt(2) * noise / np.sqrt(np.prod(noise.shape[1:]))
    return None


def _is_doubled(name: str) -> bool:
    ends = ("attention.value.weight", "attention.out.weight")
    return name.startswith(("features.", "net.fc")) or name.endswith(ends)
