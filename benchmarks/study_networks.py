"""The convolutional networks of the study of recipes, see `configs/study.py`.

Both start as the identity: the output is the image plus a correction that is zero at first.
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitdeblur_jax.models.gkmnet import GKMNet
from vitdeblur_jax.models.layers.pixel_shuffle import pixel_shuffle, pixel_unshuffle
from vitdeblur_jax.models.tilings import HaloTiles, WholeImage

Images = Float[Array, "batch height width 3"]
Maps = Float[Array, "batch height width channels"]


class UNet(nn.Module):
    """A U-Net of 3.1 M parameters that works at half, quarter and eighth of the resolution.

    Attributes:
      widths: Channels at each resolution.
      depth: Residual blocks at each resolution, on the way down and on the way up.
      dtype: Dtype of the convolutions. The image and the correction are float32.
      precision: Precision of products; see `jax.lax.Precision`.
      tiling: How large images are restored; the halo is for a depth of 2.
    """

    widths: tuple[int, int, int] = (48, 96, 192)
    depth: int = 2
    dtype: str = "float32"
    precision: str = "highest"
    tiling: HaloTiles = HaloTiles(halo=104, multiple=8)

    @nn.compact
    def __call__(self, image: Images) -> Images:
        """Returns the restored images, not clipped; sides are multiples of 8."""
        *outer, inner = self.widths
        x, skipped = jnp.asarray(image), []
        for width in outer:
            x = self._blocks(self._convolution(width, 3)(pixel_unshuffle(x)), width)
            skipped.append(x)
        x = self._blocks(self._convolution(inner, 3)(pixel_unshuffle(x)), inner)
        for width, skip in zip(reversed(outer), reversed(skipped), strict=True):
            x = pixel_shuffle(self._convolution(4 * width, 1)(x)) + skip
            x = self._blocks(x, width)
        zeros = {"kernel_init": nn.initializers.zeros}
        return image + pixel_shuffle(self._convolution(12, 3, **zeros)(x)).astype(image.dtype)

    def _blocks(self, x: Maps, width: int) -> Maps:
        for _ in range(self.depth):
            inner = nn.gelu(self._convolution(width, 3)(x))
            x = x + self._convolution(width, 3)(inner)
        return x

    def _convolution(self, width, side, **settings):
        numerics = {"dtype": self.dtype, "precision": self.precision}
        return nn.Conv(width, (side, side), **numerics, **settings)


class ResidualGKMNet(nn.Module):
    """GKMNet as published, whose output is added to the image.

    Attributes:
      dtype, precision: See `GKMNet`.
    """

    dtype: str = "float32"
    precision: str = "highest"
    tiling: ClassVar[WholeImage] = WholeImage(16)

    def setup(self):
        self.network = GKMNet(dtype=self.dtype, precision=self.precision)

    def __call__(self, image: Images, train: bool = False) -> Images:
        """Returns the restored images, not clipped; sides are multiples of 16."""
        return image + self.network(image, train)

    @nn.nowrap
    def initialized(self, variables: dict, options: dict) -> dict:
        """Returns variables with which the output is the image."""
        network = variables["params"]["network"]
        last = {name: jnp.zeros_like(value) for name, value in network["sum"].items()}
        params = {**variables["params"], "network": {**network, "sum": last}}
        return {**variables, "params": params}


UNET = UNet()  # a convolution in bfloat16 is slower on a CPU
GKMNET = ResidualGKMNet()
