"""DRBNet: predicts a residual and a filter for each pixel, from coarse to fine.

L. Ruan, B. Chen, J. Li, M. Lam, "Learning to Deblur Using Light Field Generated and Real Defocus
Images", CVPR 2022. An encoder and a decoder compute features at scales 1/8, 1/4, 1/2 and 1. At each
scale, a dynamic residual block predicts a 7 x 7 filter and a residual for every pixel and applies
them to the current estimate. The result is upsampled for the next scale. 11 689 616 parameters;
11 690 480 with two views.

The published code is under the GNU AGPL v3; its README links to the weights
(github.com/lingyanruan/DRBNet).

Peculiarities: the residual passes through a leaky ReLU. Estimates are upsampled by repeating
pixels. The dual-pixel network takes both views and restores the combined image: the mean of the
views (`views=2`), or the image of the camera (`views=3`) as in the published network.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.adaptive_filter import adaptive_filter
from vitdeblur_jax.models.layers.leaky import (
    LeakyChain,
    LeakyConv,
    LeakyUpsample,
    leaky_encoder,
    leaky_encoder_entries,
)
from vitdeblur_jax.models.layers.resize import nearest_upsample
from vitdeblur_jax.models.layers.views import views_and_combined
from vitdeblur_jax.models.published import CONV, CONV_TRANSPOSE, Entry, Path, conv, joined, rolled
from vitdeblur_jax.models.tilings import HaloTiles, check_image
from vitdeblur_jax.utils.config_checks import choice, integer, sequence

CONFIGURATIONS = {"drbnet": {}, "drbnet_dual": {"views": 2}}
_PAIRS = sequence(sequence(integer(1, 4096), length=2), length=4)
RULES = {
    "views": integer(1, 3),
    "widths": sequence(integer(1, 4096), length=4),
    "image_widths": _PAIRS,
    "filter_widths": _PAIRS,
    "residual_widths": _PAIRS,
    "kernel_size": choice(*range(1, 32, 2)),
}

_SCALES = (1, 2, 4, 8)
_VIEW_CHANNELS = 3

Pair = tuple[int, int]


class DRBNet(nn.Module):
    """The whole network. Widths are numbers of channels from the finest to the coarsest level.

    Attributes:
      views: 1; 2 (left and right); or 3 (left, right and combined).
      widths: Widths of the encoder and the decoder.
      image_widths: Widths of the first two convolutions of the estimate.
      filter_widths: Widths of the two convolutions before the filters.
      residual_widths: Widths of the two convolutions before the residual.
      kernel_size: Side of the predicted filters, odd.
      dtype: Dtype of the computation. Estimates are float32.
      precision: Precision of products; see `jax.lax.Precision`.
    """

    views: int = 1
    widths: tuple[int, int, int, int] = (32, 64, 128, 256)
    image_widths: tuple[Pair, Pair, Pair, Pair] = ((64, 64), (64, 64), (64, 128), (64, 128))
    filter_widths: tuple[Pair, Pair, Pair, Pair] = ((64, 64), (64, 64), (128, 128), (256, 128))
    residual_widths: tuple[Pair, Pair, Pair, Pair] = ((64, 64), (64, 64), (128, 64), (256, 64))
    kernel_size: int = 7
    dtype: str = "float32"
    precision: str = "highest"

    @property
    def tiling(self) -> HaloTiles:
        """Tiles with the receptive field as halo, 144 pixels for kernels of 7.

        Each further pixel of the kernels' radius adds at most 8 + 4 + 2 + 1 pixels, rounded to 16.
        """
        return HaloTiles(halo=144 + 16 * max(0, self.kernel_size // 2 - 3), multiple=8)

    @nn.compact
    def __call__(
        self, image: Float[ArrayLike, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch height width 3"]:
        """Returns the deblurred image, not clipped.

        Args:
          image: `3 * views` channels, RGB in [0, 1]; sides are multiples of 8.
          train: Has no effect.
        """
        check_image(image.shape, self.views, self.tiling.multiple, (1, 2, 3))
        views, combined = views_and_combined(2 * jnp.asarray(image, jnp.float32) - 1)
        features = self._features(views)
        batch, height, width, _ = combined.shape
        blocks = combined.reshape(batch, height // 8, 8, width // 8, 8, 3)
        estimate = self._improve(3, blocks.mean(axis=(2, 4)), features[3])
        for level in (2, 1, 0):
            estimate = self._improve(level, nearest_upsample(estimate), features[level])
        return (estimate + 1) / 2

    def _improve(self, level, image, features):
        block = DynamicResidualBlock(
            self.image_widths[level],
            self.filter_widths[level],
            self.residual_widths[level],
            self.kernel_size,
            **self._numerics,
            name=f"dynamic_{_SCALES[level]}",
        )
        return block(image, features)

    def _features(self, x):
        """Returns the decoder's features, from the finest level to the coarsest."""
        numerics = self._numerics
        *skips, x = leaky_encoder(x, self.widths, "encoder", **numerics)
        x = LeakyConv(self.widths[3], **numerics, name="bottleneck_0")(x)
        x = ResidualBlock(**numerics, name="bottleneck_1")(x)
        x = ResidualBlock(**numerics, name="bottleneck_2")(x)
        x = LeakyConv(self.widths[3], **numerics, name="bottleneck_3")(x)
        features = [x]
        for level in (2, 1, 0):
            scale = _SCALES[level]
            up = LeakyUpsample(self.widths[level], **numerics, name=f"upsample_{scale}")
            x = up(x) + skips[level]
            x = ResidualBlock(**numerics, name=f"decoder_{scale}_0")(x)
            x = ResidualBlock(**numerics, name=f"decoder_{scale}_1")(x)
            features.insert(0, x)
        return features

    @property
    def _numerics(self):
        return {"dtype": self.dtype, "precision": self.precision}


class ResidualBlock(nn.Module):
    """Two convolutions with a leaky ReLU between them, added to the input.

    Attributes:
      dtype, precision: See `DRBNet`.
    """

    dtype: str = "float32"
    precision: str = "highest"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        numerics = {"dtype": self.dtype, "precision": self.precision}
        inner = LeakyConv(x.shape[-1], **numerics, name="conv_0")(x)
        return x + nn.Conv(x.shape[-1], (3, 3), **numerics, name="conv_1")(inner)


class DynamicResidualBlock(nn.Module):
    """Predicts a filter and a residual for each pixel; adds the filtered image and the residual.

    Attributes:
      image_widths, filter_widths, residual_widths: The widths of this level; see `DRBNet`.
      kernel_size, dtype, precision: See `DRBNet`.
    """

    image_widths: Pair
    filter_widths: Pair
    residual_widths: Pair
    kernel_size: int = 7
    dtype: str = "float32"
    precision: str = "highest"

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "batch height width 3"],
        features: Float[Array, "batch height width channels"],
    ) -> Float[Array, "batch height width 3"]:
        """Returns the next estimate, float32. Input and output are in [-1, 1]."""
        numerics = {"dtype": self.dtype, "precision": self.precision}
        image_widths = (*self.image_widths, features.shape[-1])
        seen = LeakyChain(image_widths, **numerics, name="image_features")(image)
        x = jnp.concatenate([features, seen], axis=-1)
        inner = LeakyChain(self.filter_widths, **numerics, name="filter_features")(x)
        taps = nn.Conv(self.kernel_size**2, (1, 1), **numerics, name="filters")(inner)
        residual_widths = (*self.residual_widths, 3)
        residual = LeakyChain(residual_widths, last_kernel_size=1, **numerics, name="residual")(x)
        filters = taps.reshape(*taps.shape[:3], self.kernel_size, self.kernel_size, 1)
        return image + adaptive_filter(image, filters.astype(jnp.float32)) + residual


def published_entries(network: DRBNet) -> dict[Path, Entry]:
    """Returns each variable's name and layout in the published checkpoints.

    The dual-pixel network's first kernel takes the right view first.
    """
    right_view_first = CONV.then(rolled(_VIEW_CHANNELS, axis=2))
    parts = [leaky_encoder_entries("encoder", "conv", len(_SCALES), right_view_first)]
    for i, scale in enumerate(_SCALES):
        parts.append(_dynamic_entries(f"dynamic_{scale}", scale, f"upconv{i}"))
    for j in (0, 3):
        parts.append(conv((f"bottleneck_{j}", "conv"), f"conv4_4.{j}.0"))
    for j in (1, 2):
        parts.append(_residual_entries(f"bottleneck_{j}", f"conv4_4.{j}"))
    for i, scale in enumerate(_SCALES[:3]):
        name = f"upconv{i + 1}"
        parts.append(conv((f"upsample_{scale}", "conv"), f"{name}_u.0", CONV_TRANSPOSE))
        for j in range(2):
            parts.append(_residual_entries(f"decoder_{scale}_{j}", f"{name}_{j + 1}"))
    return joined(parts)


def _residual_entries(path: str, name: str):
    first = conv((path, "conv_0", "conv"), f"{name}.stem.0.0")
    return first | conv((path, "conv_1"), f"{name}.stem.0.2")


def _dynamic_entries(path: str, scale: int, name: str):
    parts = [conv((path, "filters"), f"{name}_kernel.2")]
    chains = (
        ("image_features", f"img_d{scale}_feature", 3),
        ("filter_features", f"{name}_kernel", 2),
        ("residual", f"{name}_res", 3),
    )
    for module, chain, length in chains:
        for j in range(length):
            parts.append(conv((path, module, f"conv_{j}", "conv"), f"{chain}.{j}.0"))
    return joined(parts)
