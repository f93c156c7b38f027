"""How a network restores an image of any size: three kinds of tiling, as plain values."""

import math
from typing import NamedTuple

from vitdeblur_jax.utils.errors import UserError


class HaloTiles(NamedTuple):
    """Tiles that overlap by a halo; only the middle of each is kept.

    Equal to the output for the whole image if `halo` covers the network's receptive field.

    Attributes:
      halo: pixels a side that a tile reads beyond what is kept of it.
      multiple: of pixels; a tile's corners lie on it. Images are extended to it by reflection.
      tile: least side of what is kept of a tile, pixels.
    """

    halo: int = 64
    multiple: int = 16
    tile: int = 512


class WholeImage(NamedTuple):
    """The whole image at once, for networks with global attention or pooling.

    Attributes:
      multiple: of pixels; the image is extended to it by reflection and cropped back.
    """

    multiple: int = 1


class Windows(NamedTuple):
    """Overlapping windows whose feature maps are averaged before a head makes pixels of them.

    The network has two methods: `features`, from windows to their feature maps, and `head_tile`,
    from a square of the image and the averaged map over it to pixels.

    Attributes:
      size: side of a window, pixels.
      stride: step between windows, pixels: smaller is slower and smoother.
      margin: pixels a side that an image is extended by, by reflection.
      trim: pixels a side that a window's feature map is smaller than the window.
      reach: pixels of the map a side that the head reads around each pixel.
      period: step between tokens, pixels; see `stride_note`.
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
    """Raises `UserError` unless windows `stride` pixels apart leave no gap between their maps."""
    if not 1 <= stride <= tiling.map_side:
        raise UserError(
            f"stride is {stride}; the feature map of a window is {tiling.map_side} pixels a side, "
            f"so it must be 1 to {tiling.map_side}"
        )


def stride_note(tiling: Windows, stride: int) -> str | None:
    """Returns a warning if `stride` repeats one token grid in all windows, or None.

    Each token's square of the feature map has slight seams at its borders. Averaging overlapping
    windows smooths them out only where the windows' token grids differ. The grids coincide if
    `stride` is a multiple of the tokens' period. They differ most if `stride` is about half a
    period off a multiple, and together cover all offsets if both have no common divisor.
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
      image_shape: `(batch, height, width, channels)`, integers or symbols of an export.
      views: images of three channels, one behind the other along the channels.
      multiple: of pixels, which the sides have to be; see `HaloTiles` and `WholeImage`.
      supported_views: the values that the network's `views` can have.
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
