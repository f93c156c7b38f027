"""Image metrics: pure functions of arrays, and one table of them, `METRICS`.

All metrics take RGB in [0, 1], channels last. Metrics without weights compute in the dtype of their
input: use float64 (under `jax.enable_x64`) for figures to compare with other work, float32 in a
training loop. Metrics with weights take them as an argument and compute in float32.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from vitdeblur_jax.metrics.ckdn import ckdn as ckdn
from vitdeblur_jax.metrics.feature_similarity import feature_similarity as feature_similarity
from vitdeblur_jax.metrics.lpips import lpips as lpips
from vitdeblur_jax.metrics.musiq import musiq as musiq
from vitdeblur_jax.metrics.numerics import check_pair
from vitdeblur_jax.metrics.pixelwise import mean_absolute_error as mean_absolute_error
from vitdeblur_jax.metrics.pixelwise import peak_signal_noise_ratio as peak_signal_noise_ratio
from vitdeblur_jax.metrics.similarity import structural_similarity as structural_similarity
from vitdeblur_jax.metrics.similarity import (
    structural_similarity_gaussian as structural_similarity_gaussian,
)
from vitdeblur_jax.metrics.similarity import (
    structural_similarity_luminance as structural_similarity_luminance,
)

_Image = Float[np.ndarray, "height width 3"]


class Metric(NamedTuple):
    """A metric and its presentation in tables.

    Attributes:
      title: Title of the table column.
      function: Takes image and reference. A metric with weights also takes them, as
        `vitdeblur_jax.checkpoints.metric_weights` reads them.
      definition: The exact definition, in one line.
      digits: Digits after the point.
      better: "higher" or "lower".
    """

    title: str
    function: Callable
    definition: str
    digits: int
    better: str = "higher"


def _lpips(backbone, network):
    return Metric(
        f"LPIPS {backbone}",
        functools.partial(lpips, backbone=backbone),
        f"LPIPS 0.1 with {network}, RGB",
        3,
        "lower",
    )


METRICS = {
    "psnr": Metric(
        "PSNR",
        peak_signal_noise_ratio,
        "PSNR in dB, data range 1, MSE over all pixels and channels; null: infinite",
        3,
    ),
    "ssim": Metric(
        "SSIM",
        structural_similarity,
        "SSIM, 7 x 7 uniform window, data range 1, channels averaged",
        4,
    ),
    "mae": Metric(
        "MAE", mean_absolute_error, "mean absolute error, data range 1", 4, better="lower"
    ),
    "ssim_gaussian": Metric(
        "SSIM G",
        structural_similarity_gaussian,
        "SSIM, 11 x 11 Gaussian window of sigma 1.5, data range 1, channels averaged",
        4,
    ),
    "ssim_luminance": Metric(
        "SSIM Y",
        structural_similarity_luminance,
        "SSIM, 11 x 11 Gaussian window of sigma 1.5, YIQ luminance rounded to 8 bits",
        4,
    ),
    "lpips_alex": _lpips("alex", "AlexNet"),
    "lpips_vgg": _lpips("vgg", "VGG16"),
    "lpips_squeeze": _lpips("squeeze", "SqueezeNet 1.1"),
    "fsim": Metric(
        "FSIM",
        functools.partial(feature_similarity, chromatic=False),
        "FSIM of luminance, down-sampled to about 256 pixels on the shorter side",
        4,
    ),
    "fsimc": Metric(
        "FSIMc",
        feature_similarity,
        "FSIM of luminance and chroma, down-sampled to about 256 pixels on the shorter side",
        4,
    ),
    "musiq": Metric(
        "MUSIQ",
        lambda image, reference, params: musiq(image, params),
        "MUSIQ for KonIQ-10k, three scales, without a reference",
        3,
    ),
    "ckdn": Metric(
        "CKDN",
        ckdn,
        "CKDN, with the sharp image as reference",
        4,
    ),
}
DEFAULT = ("psnr", "ssim", "mae")


def measure(image: _Image, reference: _Image, names: tuple[str, ...] = DEFAULT) -> dict[str, float]:
    """Returns the metrics of an image in [0, 1], computed in float64.

    The CPU computes them. If `JAX_PLATFORMS` excludes the CPU, as `cuda` alone does, the first
    device computes them.

    Args:
      image: The image to measure, float32 or float64.
      reference: The sharp image, float32 or float64.
      names: Keys of `METRICS`; only metrics without weights.

    Raises:
      UserError: The arrays are not two images of the same shape in [0, 1].
    """
    check_pair(image, reference)
    with jax.enable_x64(True), jax.default_device(_measuring_device()):
        pair = (array.astype(np.float64) for array in (image, reference))
        return {name: float(value) for name, value in _measured(*pair, names).items()}


@functools.cache
def _measuring_device() -> jax.Device:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]


@functools.partial(jax.jit, static_argnames="names")
def _measured(image, reference, names):
    return {name: METRICS[name].function(image, reference) for name in names}
