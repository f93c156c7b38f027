"""The three ways to restore an image of any size with a network, as plain values."""

import math
from typing import NamedTuple

from vitdeblur_jax.utils.errors import UserError


class HaloTiles(NamedTuple):
    """Tiles that overlap by a halo; only the middle of each tile is kept.

    The result equals the output for the whole image if `halo` covers the receptive field.

    Attributes:
      halo: Width of the border around the kept part of a tile, in pixels.
      multiple: Tiles start at multiples of it, in pixels; a multiple of the network's total stride.
        Images are extended by reflection to a multiple of it.
      tile: Minimum side of the kept part of a tile, in pixels.
    """

    halo: int = 64
    multiple: int = 16
    tile: int = 512


class WholeImage(NamedTuple):
    """The whole image at once, for networks with global attention or pooling.

    Attributes:
      multiple: The image is extended by reflection to a multiple of it, in pixels, and cropped
        back.
    """

    multiple: int = 1


class Windows(NamedTuple):
    """Overlapping windows; their feature maps are averaged, and a head computes the pixels.

    The network has two methods. `features` maps windows to feature maps. `head_tile` maps a square
    of the image and the averaged map over it to pixels.

    Attributes:
      size: Side of a window, in pixels.
      stride: Step between windows, in pixels. Smaller is slower and smoother.
      margin: Width of the border, in pixels, by which images are extended by reflection.
      trim: Width of the border of a window, in pixels, that its feature map leaves out.
      reach: Radius of the head's receptive field, in pixels.
      period: Step between tokens, in pixels; see `stride_note`.
    """

    size: int
    stride: int
    margin: int = 0
    trim: int = 0
    reach: int = 0
    period: int = 1

    @property
    def map_side(self) -> int:
        """Side of a window's feature map, pixels."""
        return self.size - 2 * self.trim


Tiling = HaloTiles | WholeImage | Windows


def check_stride(tiling: Windows, stride: int) -> None:
    """Raises `UserError` if the stride leaves gaps between the feature maps of windows."""
    if not 1 <= stride <= tiling.map_side:
        raise UserError(
            f"stride is {stride}; the feature map of a window is {tiling.map_side} pixels a side, "
            f"so it must be 1 to {tiling.map_side}"
        )


def stride_note(tiling: Windows, stride: int) -> str | None:
    """Returns a warning if the token grids of all windows coincide, else None.

    The feature map has slight seams between tokens. Averaging overlapping windows smooths them only
    if the token grids of the windows differ. The grids coincide if `stride` is a multiple of the
    token period. They differ most if `stride` is about half a period off a multiple, and cover all
    offsets if `stride` and the period are coprime.
    """
    step = tiling.period
    if step == 1 or stride % step:
        return None
    shifts = [shift for shift in range(1, step) if math.gcd(shift, step) == 1]
    shift = min(shifts, key=lambda shift: (abs(2 * shift - step), shift))
    return (
        f"stride {stride} is a multiple of {step}, the step between tokens: the token grids of all "
        f"windows coincide, and edges may look beaded; stride {stride - shift} avoids that"
    )


def check_image(
    image_shape: tuple, views: int, multiple: int, supported_views: tuple[int, ...]
) -> None:
    """Raises `UserError` unless a network takes images of this shape.

    Args:
      image_shape: `(batch, height, width, channels)`, integers or the symbols of an export.
      views: Number of RGB images, concatenated along the channels.
      multiple: Required divisor of height and width, in pixels.
      supported_views: The values that the network's `views` may have.
    """
    _, height, width, channels = image_shape
    if views not in supported_views:
        raise UserError(
            f"views is {views}, and the network supports {' or '.join(map(str, supported_views))}"
        )
    if channels != 3 * views:
        others = [other for other in supported_views if channels == 3 * other]
        advice = f"set its views to {others[0]}, or " if others else ""
        raise UserError(
            f"the network takes images of {3 * views} channels, and got {channels}: {advice}give "
            f"it {views} RGB image{'s' * (views > 1)}"
        )
    if height % multiple or width % multiple:
        raise UserError(
            f"the network takes sides that are multiples of {multiple} pixels, and got "
            f"{height} x {width} (height x width): extend or crop the image"
        )
