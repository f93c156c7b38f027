"""The stages of the published network beside golden outputs of the released code."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np

_ROWS = (0, 1, 17, 480, 961)  # the tokens of the encoders that the golden file holds


class Stage(NamedTuple):
    """A stage.

    Attributes:
      name: Name of its golden values; that of their mean and standard deviation has `_meanstd`.
      path: Path of its module.
      rows: The tokens that the golden file holds.
    """

    name: str
    path: tuple[str, ...]
    rows: tuple[int, ...]


STAGES = (
    *(Stage(f"primary_{i}", ("primary_encoder", f"blocks_{i}"), _ROWS) for i in range(4)),
    Stage("contextual", ("contextual_encoder",), _ROWS),
    Stage("decoder_tokens", ("decoder", "prediction"), (0, 16, 479, 960)),
    Stage("feature_map_crop", ("decoder",), ()),
)


def stage_differences(
    network: nn.Module,
    variables: dict,
    golden: Mapping[str, np.ndarray],
    stages: Sequence[Stage] = STAGES,
) -> dict[str, float]:
    """Returns the largest difference of each stage, of its values and of their mean and deviation.

    A difference counts relative to the standard deviation of the stage, if that is above 1.

    Args:
      network: The published configuration.
      variables: The variables of the stand-in weights of seed 0.
      golden: The arrays of `evaluation_seed0.npz`.
      stages: The stages to compute.
    """
    paths = {stage.path for stage in stages}

    def is_compared(module, _):
        return module.path in paths

    @jax.jit
    def outputs(variables, image):
        _, state = network.apply(
            variables, image, capture_intermediates=is_compared, mutable="intermediates"
        )
        return {stage.name: _at(state["intermediates"], stage.path) for stage in stages}

    found = outputs(variables, golden["tile_rgb"][None] / np.float32(255))
    return {
        stage.name: _difference(np.asarray(found[stage.name]), golden, stage) for stage in stages
    }


def _at(intermediates, path):
    for name in path:
        intermediates = intermediates[name]
    return intermediates["__call__"][0]


def _difference(output, golden, stage: Stage) -> float:
    output = output.astype(np.float32)
    mean, std = golden[_statistics(stage)]
    if stage.rows:
        pairs = [
            (output[0, np.array(stage.rows)], golden[stage.name]),
            (output.mean(), mean),
            (output.std(ddof=1), std),
        ]
    else:
        pairs = [(output[0, 100:116, 200:216], golden[stage.name].transpose(1, 2, 0))]
    return float(max(np.abs(a - b).max() for a, b in pairs) / max(1.0, std))


def _statistics(stage: Stage) -> str:
    return "decoder_meanstd" if stage.path[0] == "decoder" else f"{stage.name}_meanstd"
