"""What training does to an example: one random crop of all its images, mirrored and turned.

An example is a dict of a name and of arrays of one height and width, channels last. Pixels stay the
integers of their files up to `unit_range`, the only step to floats, which belongs on the device:
a quarter of the bytes has to go there.
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
    vertical_flip: bool = False,
    quarter_turns: bool = False,
) -> Example:
    """Cuts a random square out of an example and mirrors it left to right in half of the cases.

    That much is the published augmentation. A mirrored scene also swaps what the left and the right
    half of the lens see, so the two views of a dual-pixel image change places.

    Args:
      example: `blurred` (H x W x 3, or x 6 for a left and a right view), `sharp` (H x W x 3),
        perhaps `radius` (H x W), and `name`.
      rng: takes the same draws whatever the options, so an option does not move the crops.
      crop: side of the square, pixels.
      vertical_flip: also mirrors top to bottom in half of the cases.
      quarter_turns: also turns by 0, 90, 180 or 270 degrees, equally often. With all three, each
        of the square's eight symmetries is equally likely.

    Returns:
      The example with contiguous arrays of `crop x crop`, dtypes kept; `name` unchanged.

    Raises:
      UserError: the crop is larger than the image, or two views were to be turned.
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

    def changed(image: np.ndarray) -> np.ndarray:
        image = image[top : top + crop, left : left + crop]
        image = _mirrored(image) if mirrored else image
        image = image[::-1] if vertical_flip and upside_down else image
        image = np.rot90(image, turns) if quarter_turns else image
        # A copy, even of a view that is contiguous: the whole image need not stay in memory.
        return image.copy(order="C")

    return {key: value if key == "name" else changed(value) for key, value in example.items()}


def unit_range(
    images: UInt8[np.ndarray | jax.Array, "*shape"] | UInt16[np.ndarray | jax.Array, "*shape"],
) -> Float32[np.ndarray | jax.Array, "*shape"]:
    """Converts pixels to floats in [0, 1]; on the host, or inside of a jitted training step."""
    return images.astype(np.float32) / np.iinfo(images.dtype).max


def _mirrored(image: np.ndarray) -> np.ndarray:
    mirrored = image[:, ::-1]
    if image.shape[2:] == (_TWO_VIEWS,):
        return np.roll(mirrored, _TWO_VIEWS // 2, axis=-1)
    return mirrored
