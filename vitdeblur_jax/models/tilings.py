"""How a network restores an image of any size: three kinds of tiling, as plain values."""

from typing import NamedTuple

from vitdeblur_jax.utils.errors import UserError


class HaloTiles(NamedTuple):
    """Tiles that overlap by a halo; only the middle of each is kept.

    Equal to the output for the whole image if `halo` covers the network's receptive field.

    Attributes:
      halo: pixels a side that a tile reads beyond what is kept of it.
      multiple: of pixels; a tile's corners lie on it. Images are extended to it by reflection.
      tile: side of what is kept of a tile, pixels; a multiple of `multiple`.
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

    The network has two methods: `features`, from windows to maps that are smaller by
    `map_trim` pixels a side, and `image_head`, a module as `ImageHead` of ViTDeblur is.

    Attributes:
      size: side of a window, pixels.
      stride: step between windows, pixels: smaller is slower and smoother.
      margin: pixels a side that an image is extended by, by reflection.
    """

    size: int
    stride: int
    margin: int = 0


Tiling = HaloTiles | WholeImage | Windows


def check_image(image_shape: tuple[int, ...], views: int, multiple: int) -> None:
    """Raises `UserError` unless a network takes images of this shape.

    Args:
      image_shape: `(batch, height, width, channels)`.
      views: images of three channels, one behind the other along the channels.
      multiple: of pixels, which the sides have to be; see `HaloTiles` and `WholeImage`.
    """
    _, height, width, channels = image_shape
    if channels != 3 * views:
        raise UserError(
            f"the network takes images of {3 * views} channels, and got {channels}: set its views "
            f"to {channels // 3}, or give it {views} RGB image{'s' * (views > 1)}"
        )
    if height % multiple or width % multiple:
        raise UserError(
            f"the network takes sides that are multiples of {multiple} pixels, and got "
            f"{height} x {width} (height x width): extend or crop the image"
        )
