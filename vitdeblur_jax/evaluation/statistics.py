"""Confidence intervals of means over images, and paired tests of two methods."""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_RESAMPLES = 10_000
_LEAST_IMAGES = 6  # with five, not even five gains of five have a two-sided p below 0.05

_Values = Float[np.ndarray, " images"]


class Difference(NamedTuple):
    """Difference between two methods on the same images.

    Attributes:
      mean: Mean of first minus second.
      interval: 95 % interval of the mean; None for a single image.
      p_value: Two-sided p value of the Wilcoxon signed-rank test; None with fewer than six
        nonzero differences.
    """

    mean: float
    interval: tuple[float, float] | None
    p_value: float | None


def mean_interval(values: _Values) -> tuple[float, float] | None:
    """Returns the 95 % interval of the mean over images: percentile bootstrap, seeded.

    The images are drawn 10,000 times with replacement. The interval holds the middle 95 % of the
    means. Returns None for fewer than two images, or if a value is not finite.
    """
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    low, high = np.percentile(_resampling(len(values)) @ values, (2.5, 97.5))
    return float(low), float(high)


def paired_difference(first: _Values, second: _Values) -> Difference | None:
    """Compares two methods on the same images, in the same order.

    Returns None if a value is not finite, or without images.
    """
    if not len(first) or not (np.isfinite(first).all() and np.isfinite(second).all()):
        return None
    differences = first - second
    p_value = None
    if np.count_nonzero(differences) >= _LEAST_IMAGES:
        import scipy.stats  # late: it takes 0.5 s, and most commands need no p value

        p_value = float(scipy.stats.wilcoxon(differences).pvalue)
    return Difference(float(differences.mean()), mean_interval(differences), p_value)


@functools.lru_cache(maxsize=2)
def _resampling(count: int) -> Float[np.ndarray, "resamples images"]:
    """Returns the share of each image in each resample (a multinomial draw)."""
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), _RESAMPLES)
    return drawn / count
