"""DPDNet: a U-Net that predicts a sharp image from the two views of a dual-pixel sensor.

A. Abuolaim, M. S. Brown, "Defocus Deblurring Using Dual-Pixel Data", ECCV 2020. Four levels of
convolutions and max-pooling, a bottleneck with dropout, and four decoder levels with skip
connections. It predicts the image itself, not a residual. DPDNet-S is the same network for one
view. 31 033 423 parameters; 31 035 151 with two views.

The published code is under the MIT licence; its README links to the weights of the dual-pixel
network, its issue 3 to those of DPDNet-S
(github.com/Abdullah-Abuolaim/defocus-deblurring-dual-pixel).

Peculiarity: a ReLU on three channels precedes the last convolution, which is 1 x 1.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.resize import nearest_upsample
from vitdeblur_jax.models.layers.unet import ReluConv, max_pool, same_conv
from vitdeblur_jax.models.published import Entry, Path, bgr_views, joined, keras_conv
from vitdeblur_jax.models.tilings import HaloTiles, check_image
from vitdeblur_jax.utils.config_checks import integer, number, sequence

CONFIGURATIONS = {"dpdnet": {"views": 2}, "dpdnet_single": {}}
RULES = {
    "views": integer(1, 2),
    "widths": sequence(integer(1, 4096), length=5),
    "dropout": number(0, 1, below_high=True),
}

_SCALES = (1, 2, 4, 8, 16)


class DPDNet(nn.Module):
    """The whole network.

    Attributes:
      views: 1 or 2 (left and right).
      widths: Number of channels of each level, from the finest to the bottleneck.
      dropout: Dropout rate of the two coarsest levels.
      dtype: Dtype of the computation. The output is float32.
      precision: Precision of products; see `jax.lax.Precision`.
    """

    views: int = 1
    widths: tuple[int, int, int, int, int] = (64, 128, 256, 512, 1024)
    dropout: float = 0.4
    dtype: str = "float32"
    precision: str = "highest"

    @property
    def tiling(self) -> HaloTiles:
        """Tiles with a halo of 112 pixels, the receptive field of 110 pixels rounded up."""
        return HaloTiles(halo=112, multiple=16)

    @nn.compact
    def __call__(
        self, image: Float[ArrayLike, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch height width 3"]:
        """Returns the deblurred image in [0, 1], the output of a sigmoid.

        Args:
          image: `3 * views` channels, RGB in [0, 1]; sides are multiples of 16.
          train: Apply dropout. It needs an rng named "dropout".
        """
        check_image(image.shape, self.views, self.tiling.multiple, (1, 2))
        x, skips = jnp.asarray(image, jnp.float32), {}
        for scale, width in zip(_SCALES, self.widths, strict=True):
            name = "bottleneck" if scale == 16 else f"encoder_{scale}"
            x = self._two_convs(name, width, x if scale == 1 else max_pool(x))
            if scale >= 8:
                x = nn.Dropout(self.dropout, name=f"dropout_{scale}")(x, deterministic=not train)
            skips[scale] = x
        for scale, width in reversed([*zip(_SCALES, self.widths, strict=True)][:-1]):
            up = self._conv(f"upsample_{scale}", width, 2)(nearest_upsample(x))
            joint = jnp.concatenate([skips[scale], up], axis=-1)
            x = self._two_convs(f"decoder_{scale}", width, joint)
        x = self._conv("to_rgb", 3)(x)
        return nn.sigmoid(same_conv(self, 3, 1, "output")(x).astype(jnp.float32))

    def _two_convs(self, name, width, x):
        return self._conv(f"{name}_1", width)(self._conv(f"{name}_0", width)(x))

    def _conv(self, name, width, kernel_size=3):
        return ReluConv(width, kernel_size, self.dtype, self.precision, name=name)


def published_entries(network: DPDNet) -> dict[Path, Entry]:
    """Returns each variable's name and layout in the published Keras files.

    Keras 2.2.4 numbers layers from 1 in order of creation in a new process. The published network
    takes and returns BGR images.
    """
    names = [f"encoder_{scale}_{i}" for scale in _SCALES[:-1] for i in range(2)]
    names += ["bottleneck_0", "bottleneck_1"]
    for scale in _SCALES[-2::-1]:
        names += [f"upsample_{scale}", f"decoder_{scale}_0", f"decoder_{scale}_1"]
    names.append("to_rgb")
    parts = [keras_conv((name, "conv"), f"conv2d_{i}") for i, name in enumerate(names, start=1)]
    parts.append(keras_conv((names[0], "conv"), "conv2d_1", kernel=bgr_views(2)))
    parts.append(keras_conv(("output",), f"conv2d_{len(names) + 1}", bgr_views(3), bgr_views(0)))
    return joined(parts)
