"""Augmentation: one random crop of all arrays of an example, flips and rotations.

An example is a dict of a name and of arrays of one height and width, channels last. Pixels stay
integers until `unit_range` converts them to floats. Call it on the device, so that only a quarter
of the bytes are transferred.
"""

from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, UInt8, UInt16

from vitdeblur_jax.utils.errors import UserError

Example = dict[str, Any]
_TWO_VIEWS = 6  # channels


def random_crop_and_flips(
    example: Example,
    rng: np.random.Generator,
    crop: int,
    *,
    horizontal_flip: bool = True,
    vertical_flip: bool = False,
    quarter_turns: bool = False,
) -> Example:
    """Returns a random square crop of an example, flipped horizontally with probability 1/2.

    This is ViTDeblur's published augmentation. A flip also swaps the left and the right half of the
    lens, so the two views of a dual-pixel image change places.

    Args:
      example: `blurred` (H x W x 3, or H x W x 6 for a left and a right view), `sharp`
        (H x W x 3), optionally `radius` (H x W), and `name`.
      rng: Random generator. The number of draws does not depend on the options, so an option does
        not change the crops.
      crop: Side of the square, pixels.
      horizontal_flip: False leaves this flip out.
      vertical_flip: Also flip vertically with probability 1/2.
      quarter_turns: Also rotate by 0, 90, 180 or 270 degrees, with equal probability. With all
        three, the eight symmetries of the square are equally likely.

    Returns:
      The example with contiguous arrays of `crop x crop` pixels and unchanged dtypes and `name`.

    Raises:
      UserError: The crop is larger than the image, or `quarter_turns` is set for two views.
    """
    height, width, channels = example["blurred"].shape
    if not 0 < crop <= min(height, width):
        raise UserError(
            f"{example['name']}: no crop of {crop} x {crop} in {width} x {height} pixels; "
            "choose a smaller crop, or leave this image out"
        )
    if quarter_turns and channels == _TWO_VIEWS:
        raise UserError(
            f"{example['name']}: left and right views cannot be turned by 90 degrees, for they "
            "would lie one above the other; leave quarter_turns out"
        )
    top, left = rng.integers(height - crop + 1), rng.integers(width - crop + 1)
    mirrored, upside_down, turns = rng.integers((2, 2, 4))
    changed = {}
    for key, value in example.items():
        if key != "name":
            value = value[top : top + crop, left : left + crop]
            value = _mirrored(value) if horizontal_flip and mirrored else value
            value = value[::-1] if vertical_flip and upside_down else value
            value = np.rot90(value, turns) if quarter_turns else value
            value = value.copy(order="C")  # even a contiguous view, so the whole image is freed
        changed[key] = value
    return changed


def unit_range(
    images: UInt8[np.ndarray | jax.Array, "*shape"] | UInt16[np.ndarray | jax.Array, "*shape"],
) -> Float32[np.ndarray | jax.Array, "*shape"]:
    """Converts pixels to floats in [0, 1], on the host or in a jitted function."""
    return images.astype(np.float32) / np.iinfo(images.dtype).max


def _mirrored(image: np.ndarray) -> np.ndarray:
    mirrored = image[:, ::-1]
    if image.shape[2:] == (_TWO_VIEWS,):
        return np.roll(mirrored, _TWO_VIEWS // 2, axis=-1)
    return mirrored
