"""Image metrics: pure functions of arrays.

| metric | range | better | reference |
|---|---|---|---|
| `peak_signal_noise_ratio` | dB, infinite for identical images | higher | needed |
| `structural_similarity` | -1 to 1, 1 for identical images | higher | needed |
| `mean_absolute_error` | 0 to 1, 0 for identical images | lower | needed |

All take RGB in [0, 1], channels last, and compute in the dtype they are given: float64 (under
`jax.enable_x64`) where figures are to be compared with other people's, float32 in a training loop.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from vitdeblur_jax.metrics.pixelwise import mean_absolute_error as mean_absolute_error
from vitdeblur_jax.metrics.pixelwise import peak_signal_noise_ratio as peak_signal_noise_ratio
from vitdeblur_jax.metrics.similarity import structural_similarity as structural_similarity


class Metric(NamedTuple):
    """A metric as it stands in tables."""

    function: Callable
    definition: str
    digits: int


METRICS = {
    "psnr": Metric(
        peak_signal_noise_ratio,
        "PSNR in dB, data range 1, MSE over all pixels and channels; null: infinite",
        3,
    ),
    "ssim": Metric(
        structural_similarity, "SSIM, 7 x 7 uniform window, data range 1, channels averaged", 4
    ),
    "mae": Metric(mean_absolute_error, "mean absolute error, data range 1", 4),
}


def measure(
    image: Float[np.ndarray, "height width 3"], reference: Float[np.ndarray, "height width 3"]
) -> dict[str, float]:
    """Returns all of `METRICS` of images in [0, 1], computed in float64, on the CPU."""
    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        metrics = _all_metrics(image.astype(np.float64), reference.astype(np.float64))
        return {name: float(value) for name, value in metrics.items()}


@jax.jit
def _all_metrics(image, reference):
    return {name: metric.function(image, reference) for name, metric in METRICS.items()}
