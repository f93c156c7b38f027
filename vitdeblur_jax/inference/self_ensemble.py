"""Self-ensemble: the mean and the spread of the restorations of an image's flips and rotations.

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
    """The mean and the spread of several restorations of one image.

    Attributes:
      mean: The mean.
      spread: The standard deviation, as root mean square over the channels.
    """

    mean: _Restored
    spread: Float[np.ndarray, "height width"]


class Symmetry(NamedTuple):
    """A flip, a rotation, or both.

    Attributes:
      transposed: Whether rows and columns are exchanged, before the flips.
      flips: The axes to flip.
      swaps_views: Whether the left and the right view are exchanged, as in a mirror.
    """

    transposed: bool
    flips: tuple[int, ...]
    swaps_views: bool

    def apply(self, image: _Image) -> Num[np.ndarray, "turned_height turned_width channels"]:
        """Returns the transformed image."""
        if self.swaps_views:
            left, right = image[..., :3], image[..., 3:6]
            image = np.concatenate([right, left, image[..., 6:]], axis=-1)
        return np.flip(image.swapaxes(0, 1) if self.transposed else image, self.flips)

    def undo(self, restored: Float[np.ndarray, "turned_height turned_width 3"]) -> _Restored:
        """Returns the restored image transformed back."""
        flipped = np.flip(restored, self.flips)
        return flipped.swapaxes(0, 1) if self.transposed else flipped


def symmetries(views: int) -> list[Symmetry]:
    """Returns the eight flips and rotations, the identity first.

    Several views have only the four symmetries without a transposition: the views of a dual-pixel
    sensor are left and right, never above each other.
    """
    return [
        Symmetry(transposed, flips, views > 1 and 1 in flips)
        for transposed in ((False, True) if views == 1 else (False,))
        for flips in ((), (0,), (1,), (0, 1))
    ]


def self_ensemble(restore: Callable[[_Image], _Restored], image: _Image, views: int) -> Ensemble:
    """Restores an image in each of its `symmetries` and returns the mean and the spread.

    Args:
      restore: Restores an image of any size.
      image: The image, as `restore` takes it.
      views: 1; 2 for a left and a right view, concatenated along the channels; or 3 with the
        combined image behind them.
    """
    count, mean, squares = 0, 0.0, 0.0
    for restored in _restorations(restore, image, views):
        count += 1
        difference = restored - mean
        mean = mean + difference / count
        squares = squares + difference * (restored - mean)  # Welford's algorithm
    return Ensemble(mean, np.sqrt((squares / count).mean(axis=-1)))


def _restorations(restore, image, views) -> Iterator[_Restored]:
    for symmetry in symmetries(views):
        yield symmetry.undo(restore(np.ascontiguousarray(symmetry.apply(image))))
