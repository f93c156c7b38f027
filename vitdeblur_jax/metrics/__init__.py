"""Image metrics: pure functions of arrays, and one table of them, `METRICS`.

All take RGB in [0, 1], channels last. Those without weights compute in the dtype they are given:
float64 (under `jax.enable_x64`) where figures are to be compared with other people's, float32 in a
training loop. Those with weights take them as an argument and compute in float32.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from vitdeblur_jax.errors import known
from vitdeblur_jax.metrics.ckdn import ckdn as ckdn
from vitdeblur_jax.metrics.feature_similarity import feature_similarity as feature_similarity
from vitdeblur_jax.metrics.lpips import lpips as lpips
from vitdeblur_jax.metrics.musiq import musiq as musiq
from vitdeblur_jax.metrics.pixelwise import mean_absolute_error as mean_absolute_error
from vitdeblur_jax.metrics.pixelwise import peak_signal_noise_ratio as peak_signal_noise_ratio
from vitdeblur_jax.metrics.similarity import structural_similarity as structural_similarity
from vitdeblur_jax.metrics.similarity import (
    structural_similarity_gaussian as structural_similarity_gaussian,
)
from vitdeblur_jax.metrics.similarity import (
    structural_similarity_luminance as structural_similarity_luminance,
)
from vitdeblur_jax.metrics.weights import (
    MissingWeightsError,
    Reader,
    default_folder,
    read_ckdn,
    read_musiq,
    read_packaged_lpips,
    read_squeezenet_lpips,
)

_Image = Float[np.ndarray, "height width 3"]


class Metric(NamedTuple):
    """A metric as it stands in tables.

    Attributes:
      title: in a table's head.
      function: of image and reference; with weights, of these, too.
      definition: what a figure means, in one line.
      digits: after the point.
      better: "higher" or "lower".
      read_weights: of a folder; None: it has no weights.
      needs_reference: whether the sharp image is looked at.
    """

    title: str
    function: Callable
    definition: str
    digits: int
    better: str = "higher"
    read_weights: Reader | None = None
    needs_reference: bool = True


def _lpips(backbone, network, read_weights):
    return Metric(
        f"LPIPS {backbone}",
        functools.partial(lpips, backbone=backbone),
        f"LPIPS 0.1 with {network}, RGB",
        3,
        "lower",
        read_weights,
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
        "SSIM, 11 x 11 Gaussian window of sigma 1.5, luminance of YIQ in whole steps of 8 bits",
        4,
    ),
    "lpips_alex": _lpips("alex", "AlexNet", lambda _: read_packaged_lpips("alex")),
    "lpips_vgg": _lpips("vgg", "VGG16", lambda _: read_packaged_lpips("vgg")),
    "lpips_squeeze": _lpips("squeeze", "SqueezeNet 1.1", read_squeezenet_lpips),
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
        read_weights=read_musiq,
        needs_reference=False,
    ),
    "ckdn": Metric(
        "CKDN",
        ckdn,
        "CKDN, the sharp image for its reference",
        4,
        read_weights=read_ckdn,
    ),
}
DEFAULT = ("psnr", "ssim", "mae")

Measure = Callable[[_Image, _Image], dict[str, float]]


def measuring(
    names: Sequence[str] = DEFAULT, weights_folder: Path | None = None
) -> tuple[Measure, list[str]]:
    """Returns a function that measures an image against its reference, and what it leaves out.

    The function takes float arrays in [0, 1] and returns the figures by name, in the order of
    `names`. Metrics without weights are computed in float64 on the CPU, the others in float32 on
    the default device. It may be called from several threads.

    Args:
      names: of `METRICS`.
      weights_folder: where the user's weights are; None: `weights.default_folder()`.

    Returns:
      The function, and a line for each metric that is left out for its weights are not there.

    Raises:
      UserError: an unknown name, or a file of weights that cannot be read.
    """
    folder = default_folder() if weights_folder is None else weights_folder
    plain, weights, left_out = [], {}, []
    for name in names:
        metric = METRICS[known("metric", name, METRICS)]
        if metric.read_weights is None:
            plain.append(name)
            continue
        try:
            weights[name] = jax.device_put(metric.read_weights(folder))
        except MissingWeightsError as error:
            left_out.append(f"{name} is left out: it {error}")

    def measure_one(image: _Image, reference: _Image) -> dict[str, float]:
        figures = _plain_figures(image, reference, tuple(plain))
        for name, params in weights.items():
            single = (array.astype(np.float32) for array in (image, reference))
            figures[name] = float(_compiled(name)(*single, params))
        return {name: figures[name] for name in names if name in figures}

    return measure_one, left_out


def measure(image: _Image, reference: _Image) -> dict[str, float]:
    """Returns the figures of `DEFAULT` of images in [0, 1], computed in float64, on the CPU."""
    return _plain_figures(image, reference, DEFAULT)


def _plain_figures(image, reference, names):
    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        pair = (array.astype(np.float64) for array in (image, reference))
        return {name: float(value) for name, value in _plain_metrics(*pair, names).items()}


@functools.partial(jax.jit, static_argnames="names")
def _plain_metrics(image, reference, names):
    return {name: METRICS[name].function(image, reference) for name in names}


@functools.cache
def _compiled(name):
    return jax.jit(METRICS[name].function)
