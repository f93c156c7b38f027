"""IFANet: predicts a sequence of filters for each pixel and applies them to features.

Lee, Son, Rim, Cho, Lee: "Iterative Filter Adaptive Network for Single Image Defocus Deblurring",
CVPR 2021, arXiv 2108.13610. One encoder computes features at 1/8 of the size. Another encoder
estimates the disparity between the views of a dual-pixel camera and predicts separable filters for
each pixel of these features. A decoder computes a residual to the input from the filtered features.

10 476 996 parameters, with two views 10 477 860. The published code is under the GNU AGPL v3; its
README links to the weights (github.com/codeslake/IFAN).

Peculiarities: each iteration uses the same filter vertically and horizontally. The published
network also predicts a second filter but does not use it. This network keeps its weights, so that
conversion is exact, but does not compute it. The residual passes through a leaky ReLU. The
dual-pixel network takes both views and restores the combined image: the mean of the views
(`views=2`), or the image of the camera (`views=3`) as in the published network.

The published training has two more losses. "disparity" warps the right view to the left one; here
it is a term of the network with two views. The other one blurs the sharp image by filters that
another network inverts. That network is not included.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.convolution import conv_layer
from vitdeblur_jax.models.layers.image_losses import mse
from vitdeblur_jax.models.layers.iterative_filters import WIDE_XAVIER, IterativeFilters
from vitdeblur_jax.models.layers.leaky import (
    LeakyConv,
    LeakyUpsample,
    leaky_encoder,
    leaky_encoder_entries,
    leaky_relu,
)
from vitdeblur_jax.models.layers.views import views_and_combined
from vitdeblur_jax.models.layers.warping import shifted_columns
from vitdeblur_jax.models.published import (
    CONV,
    CONV_TRANSPOSE,
    POINTWISE,
    Entry,
    Path,
    conv,
    joined,
    rolled,
)
from vitdeblur_jax.models.tilings import HaloTiles, check_image
from vitdeblur_jax.utils.config_checks import integer, sequence

CONFIGURATIONS = {
    "ifanet": {},
    "ifanet_8": {"iterations": 8},
    "ifanet_26": {"iterations": 26},
    "ifanet_35": {"iterations": 35},
    "ifanet_44": {"iterations": 44},
    "ifanet_dual": {"views": 2},
}
RULES = {
    "views": integer(1, 3),
    "widths": sequence(integer(1, 4096), length=4),
    "iterations": integer(1, 64),
}

_SCALES = (1, 2, 4, 8)
_XAVIER = nn.initializers.xavier_uniform()

Maps = Float[Array, "batch height width channels"]


class IFANet(nn.Module):
    """The whole network.

    Attributes:
      views: 1; 2 (left and right); or 3 (left, right and combined).
      widths: Number of channels at scales 1, 1/2, 1/4 and 1/8.
      iterations: Number of adaptive filters.
      dtype: Dtype of the computation.
      precision: Precision of products; see `jax.lax.Precision`.
    """

    views: int = 1
    widths: tuple[int, int, int, int] = (32, 64, 128, 128)
    iterations: int = 17
    dtype: str = "float32"
    precision: str = "highest"

    @property
    def tiling(self) -> HaloTiles:
        """Tiles with the receptive field as halo. Each iteration adds a pixel at scale 1/8."""
        return HaloTiles(halo=392 + 8 * self.iterations, multiple=8)

    @property
    def LOSS_TERMS(self) -> dict[str, float]:
        """The term of two views with its published weight; one view has none."""
        return {} if self.views == 1 else {"disparity": 1.0}

    def __call__(
        self, image: Float[ArrayLike, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch height width 3"]:
        """Returns the deblurred image, not clipped.

        Args:
          image: `3 * views` channels, RGB in [0, 1]; sides are multiples of 8.
          train: Has no effect.
        """
        return self._restored_and_disparity(image)[0]

    def training_outputs(
        self,
        blurred: Float[ArrayLike, "batch height width channels"],
        sharp: Float[ArrayLike, "batch height width 3"],
        train: bool,
        terms: frozenset[str],
    ) -> tuple[Float[Array, "batch height width 3"], dict[str, Float[Array, " batch"]]]:
        """Returns the deblurred image and the loss terms, one value for each image.

        "disparity" is the mean squared difference, at 1/8 of the size, of the left view and the
        right view, sampled `disparity` pixels to the right.

        Args:
          blurred: See `__call__`.
          sharp: Not used.
          train: Has no effect.
          terms: Names in `LOSS_TERMS` of the terms to compute.
        """
        restored, disparity = self._restored_and_disparity(blurred)
        if "disparity" not in terms:
            return restored, {}
        views, _ = views_and_combined(jnp.asarray(blurred, jnp.float32))
        left, right = jnp.split(nn.avg_pool(views, (8, 8), (8, 8)), 2, axis=-1)
        warped = shifted_columns(right, disparity.astype(jnp.float32))
        return restored, {"disparity": mse(warped, left)}

    @nn.compact
    def _restored_and_disparity(self, image):
        check_image(image.shape, self.views, self.tiling.multiple, (1, 2, 3))
        views, combined = views_and_combined(jnp.asarray(image, jnp.float32))
        *skips, features = self._encode(combined, "encoder")
        filters, disparity = self._filter_features(self._encode(views, "filter_encoder")[-1])
        numerics = {"dtype": self.dtype, "precision": self.precision}
        x = IterativeFilters(self.iterations, **numerics, name="filters")(features, filters)
        x = ResidualStage(self.widths[3], (3,), **self._settings, name="deblurring")(x)
        x = LeakyConv(self.widths[3], **self._settings, name="deblurred")(x)
        for scale, width, skip in reversed(list(zip(_SCALES, self.widths, skips, strict=False))):
            x = LeakyUpsample(width, **self._settings, name=f"upsample_{scale}")(x) + skip
            for i in range(2):
                x = ResidualBlocks(1, **self._settings, name=f"decoder_{scale}_{i}")(x)
        residual = LeakyConv(3, **self._settings, name="residual")(x)
        return combined + residual.astype(jnp.float32), disparity

    def _encode(self, x, name):
        """Returns the features at each scale."""
        return leaky_encoder(x, self.widths, name, **self._settings)

    def _filter_features(self, x):
        """Returns the features for filter prediction, and the estimated disparity."""
        width, settings = self.widths[3], self._settings
        estimating = ResidualStage(width, (2, 2), **settings, name="disparity_estimation")(x)
        disparity = conv_layer(self, 1, 3, "disparity", kernel_init=_XAVIER)(estimating)
        seen = LeakyConv(width, **settings, name="disparity_features")(disparity)
        x = jnp.concatenate([x, seen], axis=-1)
        x = ResidualStage(width, (2, 2), **settings, name="joining")(x)
        x = LeakyConv(width, **settings, name="joined")(x)
        settings["kernel_init"] = WIDE_XAVIER
        return ResidualStage(width, (2, 2), **settings, name="filter_features")(x), disparity

    @property
    def _settings(self):
        numerics = {"dtype": self.dtype, "precision": self.precision}
        return numerics | {"kernel_init": _XAVIER}


class ResidualBlocks(nn.Module):
    """Residual blocks, each followed by a leaky ReLU. Two or more have another skip connection.

    Attributes:
      number: Number of blocks.
      dtype, precision, kernel_init: See `LeakyConv`.
    """

    number: int
    dtype: str
    precision: str
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        settings = (self.dtype, self.precision, self.kernel_init)
        start, width = x, x.shape[-1]
        for i in range(self.number):
            inner = LeakyConv(width, 3, 1, *settings, name=f"conv_{i}_0")(x)
            conv = conv_layer(self, width, 3, f"conv_{i}_1", kernel_init=self.kernel_init)
            x = leaky_relu(x + conv(inner))
        return x + start if self.number > 1 else x


class ResidualStage(nn.Module):
    """A convolution followed by residual blocks.

    Attributes:
      width: Number of channels.
      blocks: Number of blocks in each `ResidualBlocks`.
      dtype, precision, kernel_init: See `LeakyConv`.
    """

    width: int
    blocks: tuple[int, ...]
    dtype: str
    precision: str
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: Maps) -> Float[Array, "batch height width features"]:
        settings = (self.dtype, self.precision, self.kernel_init)
        x = LeakyConv(self.width, 3, 1, *settings, name="conv")(x)
        for i, number in enumerate(self.blocks):
            x = ResidualBlocks(number, *settings, name=f"blocks_{i}")(x)
        return x


def published_entries(network: IFANet) -> dict[Path, Entry]:
    """Returns each variable's name and layout in the published checkpoints.

    The dual-pixel network's first kernel takes the right view first.
    """
    right_view_first = CONV.then(rolled(3, axis=2)) if network.views > 1 else CONV
    parts = [
        leaky_encoder_entries("encoder", "conv", len(_SCALES)),
        leaky_encoder_entries("filter_encoder", "kconv", len(_SCALES), right_view_first),
        *_stage_entries("disparity_estimation", "DME", (2, 2)),
        conv(("disparity",), "DME.3"),
        conv(("disparity_features", "conv"), "conv_DME.0"),
        *_stage_entries("joining", "conv4_4", (2, 2)),
        conv(("joined", "conv"), "conv4_4.3.0"),
        *_stage_entries("filter_features", "F", (2, 2)),
        conv(("filters",), "F.3", POINTWISE),
        *_stage_entries("deblurring", "conv_res", (3,)),
        conv(("deblurred", "conv"), "conv_res.2.0"),
        conv(("residual", "conv"), "out_res.0"),
    ]
    for i, scale in enumerate(_SCALES[:3]):
        name = f"upconv{i + 1}"
        parts.append(conv((f"upsample_{scale}", "conv"), f"{name}_u.0", CONV_TRANSPOSE))
        for j in range(2):
            parts.append(_blocks_entries((f"decoder_{scale}_{j}",), f"{name}_{j + 1}", 1))
    return joined(parts)


def _stage_entries(path: str, name: str, blocks: tuple[int, ...]):
    parts = [conv((path, "conv", "conv"), f"{name}.0.0")]
    for i, number in enumerate(blocks):
        parts.append(_blocks_entries((path, f"blocks_{i}"), f"{name}.{i + 1}", number))
    return parts


def _blocks_entries(path: Path, name: str, number: int):
    parts = []
    for i in range(number):
        parts.append(conv((*path, f"conv_{i}_0", "conv"), f"{name}.stem.{i}.0"))
        parts.append(conv((*path, f"conv_{i}_1"), f"{name}.stem.{i}.2"))
    return joined(parts)
