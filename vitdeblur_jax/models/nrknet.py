"""NRKNet: a Neumann network with recursive kernels.

Quan, Wu, Ji, "Neumann Network With Recursive Kernels for Single Image Defocus Deblurring", CVPR
2023, pp. 5754-5763. Blur is modeled as a sum of blurred copies of the image with a weight for each
pixel. A U-Net with a convolutional LSTM over three scales predicts the weights. A truncated Neumann
series inverts the blur at each scale.

6 094 107 parameters. The published code is at github.com/csZcWu/NRKNet under the MIT license. The
same repository has the weights (`NRKNet_epoch3846.pth` for DPDD, `NRKNet_epoch257.pth` for LFDOF).
The published network takes BGR images; the weight conversion permutes the channels.

The published test script leaves batch norm in training mode, so it uses each image's own
statistics. The checkpoint was selected with running statistics, which are the default here. The
configuration `nrknet_image_statistics` reproduces the test script.
"""

import functools
import operator
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.blur_stacks import Reblur
from vitdeblur_jax.models.layers.convolution import conv_layer, doubling_layer
from vitdeblur_jax.models.layers.image_losses import check_pyramid, mse, pyramid_losses
from vitdeblur_jax.models.layers.recurrent_maps import RecurrentMaps, enlarged_carry
from vitdeblur_jax.models.layers.resize import enlarge, reduce
from vitdeblur_jax.models.published import (
    CONV,
    CONV_TRANSPOSE,
    Entry,
    Path,
    batch_norm,
    conv,
    joined,
    reshaped,
    reversed_along,
)
from vitdeblur_jax.models.tilings import HaloTiles, Tiling, WholeImage, check_image
from vitdeblur_jax.utils.config_checks import flag, integer, sequence

CONFIGURATIONS = {"nrknet": {}, "nrknet_image_statistics": {"image_statistics": True}}
RULES = {
    "widths": sequence(integer(1, 4096), length=3),
    "num_blurs": integer(1, 48),
    "num_steps": sequence(integer(1, 16), length=3),
    "image_statistics": flag(),
}


_conv3x3 = functools.partial(conv_layer, side=3, padding="REFLECT", use_bias=False)


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))) with reflection padding and without biases."""

    dtype: str = "float32"
    precision: str = "highest"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        inner = nn.relu(_conv3x3(self, x.shape[-1], name="conv_0")(x))
        return x + _conv3x3(self, x.shape[-1], name="conv_1")(inner)


class UNet(nn.Module):
    """Features of an image at one scale, from three resolutions with skip sums.

    Attributes:
      widths: Channels at full, half and quarter of the scale's resolution.
      dtype, precision: See `NRKNet`.
    """

    widths: tuple[int, ...]
    dtype: str = "float32"
    precision: str = "highest"

    @nn.compact
    def __call__(
        self, image: Float[Array, "batch height width 3"]
    ) -> Float[Array, "batch height width features"]:
        block = functools.partial(ResidualBlock, self.dtype, self.precision)
        x, skips = image, []
        for i, width in enumerate(self.widths):
            x = nn.relu(_conv3x3(self, width, name=f"down_{i}", strides=2 if i else 1)(x))
            skips.append(x := block(name=f"encoder_{i}")(x))
        x = nn.relu(_conv3x3(self, self.widths[-1], name="bottleneck_conv")(x))
        x = block(name="bottleneck")(x)
        x = block(name="decoder_0")(x + skips.pop())
        for i, width in enumerate(self.widths[-2::-1]):
            up = doubling_layer(self, width, 4, f"up_{i}", use_bias=False)
            x = block(name=f"decoder_{i + 1}")(nn.relu(up(x)) + skips.pop())
        return x


class Scale(NamedTuple):
    """The results at one scale.

    Attributes:
      maps: Weights of the blurred copies.
      terms: Terms of the Neumann series. The first one is the blurred image.
    """

    maps: Float[Array, "batch height width blurs"]
    terms: list[Float[Array, "batch height width 3"]]


class NRKNet(nn.Module):
    """The network, with attributes that describe its architecture.

    Attributes:
      widths: Channels of the U-Net at full, half and quarter of a scale's resolution.
      num_blurs: Number of recursive blur kernels. The unblurred image also has weights.
      num_steps: Number of Neumann terms at quarter, half and full resolution.
      image_statistics: Normalize with each image's own statistics outside training.
      dtype: Dtype of the convolutions. Images and blurs are float32.
      precision: Precision of products; see `jax.lax.Precision`.
    """

    views: ClassVar[int] = 1
    LOSS_TERMS: ClassVar[dict[str, float]] = {
        "pyramid_mse": 1.0,
        "pyramid_fourier": 0.1,
        "pyramid_ssim": 0.0,
        "reblurring": 0.0,
    }

    widths: tuple[int, int, int] = (64, 128, 256)
    num_blurs: int = 21
    num_steps: tuple[int, int, int] = (3, 2, 1)
    image_statistics: bool = False
    dtype: str = "float32"
    precision: str = "highest"

    @property
    def tiling(self) -> Tiling:
        """Whole images if batch norm uses their statistics, otherwise tiles.

        The published network's receptive field has a radius of 393 pixels. The blurs before the
        last step reach 168, 42 and 0 of them at the three scales; wider ones add the difference.
        """
        if self.image_statistics:
            return WholeImage(16)
        reaches = (
            s * (n - 1) * self.num_blurs for s, n in zip((4, 2, 1), self.num_steps, strict=True)
        )
        wider = max(map(operator.sub, reaches, (168, 42, 0)))
        return HaloTiles(halo=400 + max(0, -(-wider // 16) * 16), multiple=16)

    def setup(self):
        numerics = {"dtype": self.dtype, "precision": self.precision}
        self.unet = UNet(self.widths, **numerics)
        self.maps = RecurrentMaps(self.num_blurs + 1, True, self.image_statistics, **numerics)
        self.reblur = Reblur(self.num_blurs, **numerics)

    def __call__(
        self, image: Float[ArrayLike, "batch height width 3"], train: bool = False
    ) -> Float[Array, "batch height width 3"]:
        """Returns the restored images, not clipped.

        Args:
          image: RGB in [0, 1]; sides are multiples of 16.
          train: Normalize with the batch statistics and update the running statistics.
        """
        return _restored(image, self._scales(image, train))

    def training_outputs(
        self,
        blurred: Float[ArrayLike, "batch height width 3"],
        sharp: Float[ArrayLike, "batch height width 3"],
        train: bool,
        terms: frozenset[str],
    ) -> tuple[Float[Array, "batch height width 3"], dict[str, Float[Array, " batch"]]]:
        """Returns the restored images and the loss terms.

        The published training minimizes `pyramid_mse` + 0.1 `pyramid_fourier`, and in some epochs
        `pyramid_ssim` alone. It computes the paper's reblurring loss but does not minimize it.

        Args:
          blurred: See `__call__`.
          sharp: The target, RGB in [0, 1].
          train: See `__call__`.
          terms: Names of those to compute, from `LOSS_TERMS`.
        """
        scales = self._scales(blurred, train)
        restored = _restored(blurred, scales)
        outputs = [*(sum(scale.terms) for scale in scales), restored]
        found = output_losses(outputs, sharp, terms)
        if "reblurring" in terms:
            reblurred = self._reblurred(sharp, scales)
            found["reblurring"] = sum(map(mse, reblurred, _pyramid(blurred)))
        return restored, found

    @nn.nowrap
    def check_training(self, crop: int, batch_size: int, weights: Mapping[str, float]) -> None:
        """Raises `UserError` if crops are too small for the loss terms; see `models.network`."""
        check_pyramid(self, crop, weights)

    def _scales(self, image, train) -> list[Scale]:
        check_image(image.shape, self.views, self.tiling.multiple, (1,))
        scales, pyramid = [], _pyramid(image)
        carry = self.maps.initial_carry(pyramid[0])
        for blurred, num_steps in zip(pyramid, self.num_steps, strict=True):
            if scales:
                carry = enlarged_carry(carry)
            maps, carry = self.maps(self.unet(blurred), carry, train)
            terms = [blurred]
            for _ in range(num_steps):
                terms.append(terms[-1] - self.reblur(maps, terms[-1]))
            scales.append(Scale(maps, terms))
        return scales

    def _reblurred(self, sharp, scales):
        return [self.reblur(s.maps, x) for s, x in zip(scales, _pyramid(sharp), strict=True)]


def output_losses(
    outputs: list[Float[Array, "batch _ _ 3"]],
    sharp: Float[ArrayLike, "batch height width 3"],
    terms: frozenset[str],
) -> dict[str, Float[Array, " batch"]]:
    """Returns the `pyramid_losses` in `terms` of images at quarter, half, full and full resolution.

    The target is reduced by bilinear interpolation without a low-pass filter.
    """
    sharp = jnp.asarray(sharp, jnp.float32)
    targets = [reduce(sharp, 4), reduce(sharp, 2), sharp, sharp]
    return pyramid_losses(outputs, targets, (0.25, 0.5, 0.75, 1.0), terms)


def published_entries(network: NRKNet) -> dict[Path, Entry]:
    """Returns the name and layout of each variable in the published checkpoint."""
    levels = range(len(network.widths))
    ups = enumerate(range(len(levels), 2 * len(levels) - 1))
    parts = [
        *(_conv_entries(f"down_{i}", f"feat_extract.{i}") for i in levels),
        _conv_entries("down_0", "feat_extract.0", CONV.then(reversed_along(2))),
        *(_block_entries(f"encoder_{i}", f"Encoder.{i}") for i in levels),
        _conv_entries("bottleneck_conv", "bottleneck.0"),
        _block_entries("bottleneck", "bottleneck.1"),
        *(_block_entries(f"decoder_{i}", f"Decoder.{i}") for i in levels),
        *(_conv_entries(f"up_{i}", f"feat_extract.{j}", CONV_TRANSPOSE) for i, j in ups),
        conv(("maps", "conv"), "APU.conv.main.0", bias=False),
        batch_norm(("maps", "norm"), "APU.conv.main.1"),
        conv(("maps", "lstm", "gates"), "APU.conv_atten.conv"),
        _reblur_entries(network.num_blurs),
    ]
    return joined(parts)


def _conv_entries(path, name, layout=CONV):
    return conv(("unet", path), f"{name}.main.0", layout, bias=False)


def _block_entries(path, name):
    return joined(
        conv(("unet", path, f"conv_{i}"), f"{name}.layers.0.main.{i}.main.0", bias=False)
        for i in range(2)
    )


def _reblur_entries(blurs):
    """Returns the entries of `Reblur`. Channels 3 k + c of blur k have c in BGR order."""
    taps = reshaped((3 * blurs, 1, 1, 2), (blurs, 3, 2)).then(reversed_along(1))
    split = reshaped((1, 1, 3 * blurs + 3, 3), (blurs + 1, 3, 3))
    joint = reshaped((blurs + 1, 3, 3), (1, 1, 3 * blurs + 3, 3))
    kernel = CONV.then(split).then(reversed_along(1)).then(reversed_along(2)).then(joint)
    path = ("params", "reblur")
    return {
        (*path, "taps"): Entry("GCM.kernels", taps),
        (*path, "sum", "kernel"): Entry("SummationLayer.conv.weight", kernel),
        (*path, "sum", "bias"): Entry("SummationLayer.conv.bias", reversed_along(0)),
    }


def published_unused(network: NRKNet) -> dict[str, np.ndarray]:
    """Returns the entries of the published checkpoint that this network does not use."""
    return {"APU.conv.main.1.num_batches_tracked": np.zeros((), np.int64)}


def _pyramid(image):
    """Returns float32 images at quarter, half and full resolution, by nearest neighbors."""
    image = jnp.asarray(image, jnp.float32)
    return [image[:, ::4, ::4], image[:, ::2, ::2], image]


def _restored(image, scales):
    quarter, half, full = (scale.terms[-1] for scale in scales)
    return image + full + enlarge(half, 2) + enlarge(quarter, 4)
