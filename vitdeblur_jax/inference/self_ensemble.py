"""Self-ensemble: an image restored in each of its flips and turns; their mean and their spread.

R. Timofte, R. Rothe, L. Van Gool: "Seven Ways to Improve Example-Based Single Image Super
Resolution", CVPR 2016, section 3.3.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num

_Image = Num[np.ndarray, "height width channels"]
_Restored = Float[np.ndarray, "height width 3"]


class Ensemble(NamedTuple):
    """What the restorations of one image have in common, and where they differ.

    Attributes:
      mean: of the restorations.
      spread: their standard deviation, the root mean square over the channels; 0 where all agree.
    """

    mean: _Restored
    spread: Float[np.ndarray, "height width"]


class Symmetry(NamedTuple):
    """Flips and turns an image.

    Attributes:
      transposed: rows become columns, before any flip.
      flips: the axes to be turned round then.
      swaps_views: the left and the right view change places, as they do in a mirror.
    """

    transposed: bool
    flips: tuple[int, ...]
    swaps_views: bool

    def apply(self, image: _Image) -> Num[np.ndarray, "turned_height turned_width channels"]:
        """Returns the image, flipped and turned."""
        if self.swaps_views:
            image = np.concatenate(np.split(image, 2, axis=-1)[::-1], axis=-1)
        return np.flip(image.swapaxes(0, 1) if self.transposed else image, self.flips)

    def undo(self, restored: Float[np.ndarray, "turned_height turned_width 3"]) -> _Restored:
        """Returns a restoration in the original's place."""
        flipped = np.flip(restored, self.flips)
        return flipped.swapaxes(0, 1) if self.transposed else flipped


def symmetries(views: int) -> list[Symmetry]:
    """Returns all eight flips and turns, the identity first.

    Of a left and a right view the four that leave the one beside the other: a sensor's views are
    never above each other.
    """
    return [
        Symmetry(transposed, flips, views == 2 and 1 in flips)
        for transposed in ((False, True) if views == 1 else (False,))
        for flips in ((), (0,), (1,), (0, 1))
    ]


def self_ensemble(restore: Callable[[_Image], _Restored], image: _Image, views: int) -> Ensemble:
    """Restores an image in each of its `symmetries` and returns their mean and spread.

    Args:
      restore: from an image of any size to its restoration.
      image: as `restore` takes it.
      views: 1, or 2 for a left and a right view, channels one behind the other.
    """
    count, mean, squares = 0, 0.0, 0.0
    for restored in _restorations(restore, image, views):
        count += 1
        difference = restored - mean
        mean = mean + difference / count
        squares = squares + difference * (restored - mean)  # Welford's: no large sums to subtract
    return Ensemble(mean, np.sqrt((squares / count).mean(axis=-1)))


def _restorations(restore, image, views) -> Iterator[_Restored]:
    for symmetry in symmetries(views):
        yield symmetry.undo(restore(np.ascontiguousarray(symmetry.apply(image))))
