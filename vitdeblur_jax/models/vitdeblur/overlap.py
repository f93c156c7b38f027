"""Overlapping windows of a training crop, whose feature maps are averaged as in restoration.

A model trained on single windows learns to predict each window alone. In restoration the maps of
several windows are averaged (`inference/windows.py`). With `tiling.train_stride` the loss is that
of the averaged map.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vitdeblur_jax.models.tilings import Windows
from vitdeblur_jax.utils.errors import UserError


def averaged_features(
    features: Callable[[Array], Array],
    image: Float[Array, "batch height width channels"],
    tiling: Windows,
    stride: int,
) -> Float[Array, "batch map_height map_width features"]:
    """Returns the average of the feature maps of all windows, float32, trimmed like one map.

    Args:
      features: Maps windows to their feature maps.
      image: Square images of at least `tiling.size` pixels a side.
      tiling: Windows of the network.
      stride: Step between windows, pixels. The last window ends at the edge.
    """
    size, side = tiling.size, tiling.map_side
    last = image.shape[1] - size
    starts = [*range(0, last, stride), last]
    corners = [(top, left) for top in starts for left in starts]
    windows = jnp.stack([image[:, y : y + size, x : x + size] for y, x in corners], axis=1)
    maps = features(windows.reshape(-1, *windows.shape[2:])).astype(jnp.float32)
    maps = maps.reshape(len(image), len(corners), *maps.shape[1:])
    total = jnp.zeros((len(image), last + side, last + side, maps.shape[-1]), jnp.float32)
    counts = np.zeros((last + side, last + side, 1), np.float32)
    for number, (y, x) in enumerate(corners):
        total = total.at[:, y : y + side, x : x + side].add(maps[:, number])
        counts[y : y + side, x : x + side] += 1
    return total / counts


def check_overlap(crop: int, tiling: Windows, stride: int, has_own_terms: bool) -> None:
    """Raises `UserError` unless crops can be trained on in overlapping windows.

    Args:
      crop: Side of the crops, pixels.
      tiling: Windows of the network.
      stride: `tiling.train_stride`.
      has_own_terms: Whether the contextual terms have a weight.
    """
    key = f"tiling.train_stride is {stride}"
    if stride > tiling.map_side:
        raise UserError(
            f"{key}; the feature map of a window is {tiling.map_side} pixels a side, so it must be "
            f"at most {tiling.map_side}"
        )
    if crop < tiling.size:
        raise UserError(
            f"{key}, so a crop must hold a window of {tiling.size} pixels, but crop is {crop}"
        )
    if has_own_terms:
        raise UserError(
            f"{key}, and the contextual terms are those of single windows; set train_stride or the "
            "contextual weights in loss to 0"
        )
