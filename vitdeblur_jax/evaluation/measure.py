"""Measures an image with several metrics, whose weights are loaded once."""

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from vitdeblur_jax.checkpoints.metric_weights import CACHE, READERS, MissingWeightsError
from vitdeblur_jax.evaluation.protocols import Protocol, Values
from vitdeblur_jax.metrics import DEFAULT, METRICS, measure
from vitdeblur_jax.utils.caches import own_cache
from vitdeblur_jax.utils.errors import UserError, known

_Image = Float[np.ndarray, "height width 3"]
Measure = Callable[[_Image, _Image], dict[str, float]]
_MOST_THREADS = 8  # each holds an image in float64 several times over


def measuring_threads() -> int:
    """Returns how many threads may measure images at the same time."""
    return min(os.cpu_count() or 1, _MOST_THREADS)


def measuring(
    names: Sequence[str] = DEFAULT, weights_folder: Path | None = None
) -> tuple[Measure, list[str], list[str]]:
    """Returns a function that measures an image against its reference.

    The function takes float arrays in [0, 1] and returns the figures by name, in the order of
    `names`. Metrics without weights are computed in float64 on the CPU, the others in float32 on
    the default device. The function is thread-safe.

    Args:
      names: Names in `METRICS`.
      weights_folder: Folder of the user's weights; None for `own_cache(metric_weights.CACHE)`.

    Returns:
      The function, the names of the metrics it computes, and one line for each metric that is
      skipped because its weights are missing.

    Raises:
      UserError: A name is unknown, or a file of weights cannot be read.
    """
    folder = own_cache(CACHE) if weights_folder is None else weights_folder
    weights, left_out = {}, {}
    for name in names:
        if known("metric", name, METRICS) in READERS:
            try:
                weights[name] = jax.device_put(READERS[name](folder))
            except MissingWeightsError as error:
                left_out[name] = f"{name} is left out: it {error}"
    kept = [name for name in names if name not in left_out]
    plain = tuple(name for name in kept if name not in weights)

    def measure_one(image: _Image, reference: _Image) -> dict[str, float]:
        figures = measure(image, reference, plain)
        for name, params in weights.items():
            single = (array.astype(np.float32) for array in (image, reference))
            figures[name] = float(_compiled(name)(*single, params))
        return {name: figures[name] for name in kept}

    return measure_one, kept, list(left_out.values())


def load_metrics(
    names: Sequence[str], weights_folder: Path | None, protocol: Protocol
) -> tuple[Measure, list[str], list[str]]:
    """Returns what `measuring` returns, for images that are not clipped.

    Args:
      names: Names in `METRICS`.
      weights_folder: See `measuring`.
      protocol: It tells the values that each metric is computed of.

    Raises:
      UserError: `measuring` raises it, or no metric has its weights.
    """
    groups: dict[Values, list[str]] = {}
    for name in names:
        groups.setdefault(protocol.values_for(name), []).append(name)
    loaded = {values: measuring(group, weights_folder) for values, group in groups.items()}
    left_out = [line for _, _, lines in loaded.values() for line in lines]
    kept = [name for name in names if any(name in group for _, group, _ in loaded.values())]
    if not kept:
        raise UserError(f"no metric is left: {'; '.join(left_out)}")

    def measure_one(image: _Image, reference: _Image) -> dict[str, float]:
        figures = {}
        for values, (measure_group, *_) in loaded.items():
            figures |= measure_group(values.of(image), values.of(reference))
        return {name: figures[name] for name in kept}

    return measure_one, kept, left_out


@functools.cache
def _compiled(name):
    return jax.jit(METRICS[name].function)
