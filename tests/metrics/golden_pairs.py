"""Three sharp images, their Gaussian blur, and what public implementations measured of them.

The images come with scikit-image; the figures, with their functions and versions, are in
`tests/data/metrics/metrics_seed0.json`.
"""

import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import skimage
from PIL import Image, ImageFilter

from tests.metrics.metric_weights import DATA

_GOLDEN = json.loads((DATA / "metrics_seed0.json").read_text())
NAMES = tuple(_GOLDEN["images"])
# For tests that take seconds: one of them always, the others where slow tests run.
ONE_AT_LEAST = [NAMES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])]


class GoldenPair(NamedTuple):
    """H x W x 3 uint8, and the figures by name."""

    sharp: np.ndarray
    blurred: np.ndarray
    figures: dict[str, Any]


@functools.cache
def golden_pair(name: str) -> GoldenPair:
    """Returns one of `NAMES`, after a look whether it is the same pixels."""
    source, figures = _GOLDEN["images"][name], _GOLDEN["pairs"][name]
    path = Path(skimage.__file__).parents[1] / source["file"]
    sharp = Image.open(path).convert("RGB")
    blurred = sharp.filter(ImageFilter.GaussianBlur(source["gaussian_blur_radius"]))
    top, bottom, left, right = source["crop_rows_columns"] or (0, sharp.height, 0, sharp.width)
    pair = [np.asarray(picture)[top:bottom, left:right] for picture in (sharp, blurred)]
    sums = [figures[f"{which}_uint8_sum"] for which in ("sharp", "blurred")]
    assert [int(picture.sum()) for picture in pair] == sums
    return GoldenPair(*pair, figures)


def as_floats(pair: GoldenPair, dtype: type = np.float32) -> tuple[np.ndarray, np.ndarray]:
    """Returns the blurred and the sharp image in [0, 1]."""
    return tuple((picture / 255).astype(dtype) for picture in (pair.blurred, pair.sharp))


def statistics(array: Any) -> list[float]:
    """Returns mean and standard deviation (n - 1), as they were recorded of steps."""
    array = np.asarray(array, np.float64)
    return [array.mean(), array.std(ddof=1)]
