"""How a network restores an image of any size: three kinds of tiling, as plain values."""

from typing import NamedTuple


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
