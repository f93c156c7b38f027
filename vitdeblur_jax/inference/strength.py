"""Results at any strength from one restoration, without the network."""

from collections.abc import Iterator

import jax
import numpy as np
from jaxtyping import Float, Num
from numpy.typing import DTypeLike

from vitdeblur_jax.inference.strips import (
    Output,
    extended_image,
    finished,
    on_host,
    window_starts,
)

_ROWS = 256


def at_strength(
    image: Num[np.ndarray, "height width 3"],
    restored: Float[np.ndarray, "height width 3"],
    strength: float,
    dtype: DTypeLike,
) -> Num[np.ndarray, "height width 3"]:
    """Returns what `deblur` returns for this strength, to the bit.

    It is blended on the device by the same function, in strips of rows.

    Args:
      image: The blurred image; uint8, uint16 or float in [0, 1].
      restored: The restored image, float32, not clipped, as `restore` returns it by default. It may
        be memory-mapped.
      strength: Weight of the restored image, from 0 to 1.
      dtype: Of the result: uint8, uint16 or float32.
    """
    result = np.empty(image.shape, dtype)
    height, rows = len(image), min(_ROWS, len(image))
    starts = window_starts(height, rows, rows)
    strips = on_host(_blended(image, restored, starts, rows, Output(dtype, strength)))
    for start, strip in zip(starts, strips, strict=True):
        result[start : start + rows] = strip[:, : image.shape[1]]
    return result


def _blended(image, restored, starts, rows, output) -> Iterator:
    source = extended_image(image, 0, *image.shape[:2])
    padding = ((0, 0), (0, source.bucket - image.shape[1]), (0, 0))
    for start in starts:  # the last strip overlaps: all have one shape
        joined = np.pad(restored[start : start + rows], padding)
        given = None if output.strength == 1 else source.strip(start, rows)
        yield finished(jax.device_put(joined, jax.local_devices()[0]), given, 0, output)
