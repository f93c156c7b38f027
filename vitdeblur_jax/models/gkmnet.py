"""GKMNet: mixtures of Gaussian kernels over three scales.

Quan, Wu, Ji, "Gaussian Kernel Mixture Network for Single Image Defocus Deblurring", NeurIPS 2021,
arXiv 2111.00454. A U-Net with triplet attention and a convolutional LSTM predict the weights of a
fixed stack of Gaussian blurs. There are three scales, from quarter to full resolution. The output
of a scale is the weighted sum of the blurs of the image and of the blurs of the previous output.

1 409 131 parameters. The published code is at github.com/csZcWu/GKMNet without a license. The same
repository has the weights (`checkpoints/GKMNet_epoch2819.pth`).

The published code never switches batch norm to evaluation mode, so all published results use each
image's own statistics. This is the default here. The configuration `gkmnet_running_statistics` uses
running statistics. The published order of the blur stack is scrambled; see `gaussian_blurs`. Images
at half and quarter resolution are rounded to 8 bits, as in Pillow.
"""

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.batch_norm import BatchNorm
from vitdeblur_jax.models.layers.blur_stacks import gaussian_blurs
from vitdeblur_jax.models.layers.convolution import conv_layer, doubling_layer
from vitdeblur_jax.models.layers.image_losses import check_pyramid, pyramid_losses
from vitdeblur_jax.models.layers.recurrent_maps import Carry, RecurrentMaps, enlarged_carry
from vitdeblur_jax.models.layers.resize import enlarge, pillow_pyramid
from vitdeblur_jax.models.published import CONV_TRANSPOSE, Entry, Path, batch_norm, conv, joined
from vitdeblur_jax.models.tilings import WholeImage, check_image
from vitdeblur_jax.utils.config_checks import flag, integer, sequence

CONFIGURATIONS = {"gkmnet": {}, "gkmnet_running_statistics": {"image_statistics": False}}
RULES = {
    "widths": sequence(integer(1, 4096), length=3),
    "num_blurs": integer(1, 64),
    "image_statistics": flag(),
}

Features = Float[Array, "batch height width channels"]
Images = Float[Array, "batch height width 3"]

_BLOCKS = {
    "first": "in_block",
    "down_0": "conv_block1_1",
    "down_1": "conv_block2_1",
    "bottleneck": "bottle_neck_1",
    "up_0": "conv_block3_1",
    "up_1": "conv_block4_1",
}
_GATES = {"hw": 3, "cw": 1, "hc": 2}  # axes over which they pool


class ConvNorm(nn.Module):
    """A convolution with bias, batch norm and ReLU.

    Attributes:
      features: Channels of the output.
      scale: 1 keeps the size, 1/2 halves it and 2 doubles it.
      is_plain: Whether to leave out batch norm and ReLU.
      image_statistics: See `BatchNorm`.
      dtype, precision: See `GKMNet`.
    """

    features: int
    scale: int | float = 1
    is_plain: bool = False
    image_statistics: bool = False
    dtype: str = "float32"
    precision: str = "highest"

    @nn.compact
    def __call__(
        self, x: Features, train: bool
    ) -> Float[Array, "batch out_height out_width features"]:
        if self.scale == 2:
            x = doubling_layer(self, self.features, 2, "conv")(x)
        else:
            stride = round(1 / self.scale)
            x = conv_layer(self, self.features, 3, "conv", strides=stride, padding=1)(x)
        if self.is_plain:
            return x
        norm = BatchNorm(image_statistics=self.image_statistics, dtype=self.dtype, name="norm")
        return nn.relu(norm(x, train))


class Gate(nn.Module):
    """Multiplies by an attention map from the maximum and the mean along one axis.

    Attributes:
      axis: The pooled axis: 1 height, 2 width, 3 channels. The rows and columns of the map are
        channels and width, height and channels, or height and width, respectively.
      image_statistics: See `BatchNorm`.
      dtype, precision: See `GKMNet`.
    """

    axis: int
    image_statistics: bool = False
    dtype: str = "float32"
    precision: str = "highest"

    @nn.compact
    def __call__(self, x: Features, train: bool) -> Features:
        pooled = jnp.stack([x.max(self.axis), x.mean(self.axis)], axis=-1)
        is_turned = self.axis == 1  # width and channels remain; the rows of the map are channels
        pooled = pooled.swapaxes(1, 2) if is_turned else pooled
        conv = conv_layer(self, 1, 7, "conv", use_bias=False)
        norm = BatchNorm(0.99, self.image_statistics, dtype=self.dtype, name="norm")
        gate = nn.sigmoid(norm(conv(pooled), train))[..., 0]
        gate = gate.swapaxes(1, 2) if is_turned else gate
        return x * jnp.expand_dims(gate, self.axis)


class Block(nn.Module):
    """A convolution, two residual convolutions, and triplet attention (the mean of three gates).

    Triplet attention is by Misra et al., "Rotate to Attend", WACV 2021.

    Attributes:
      features, scale, is_plain: Settings of the first convolution; see `ConvNorm`.
      image_statistics, dtype, precision: See `GKMNet`.
    """

    features: int
    scale: int | float = 1
    is_plain: bool = False
    image_statistics: bool = False
    dtype: str = "float32"
    precision: str = "highest"

    def setup(self):
        options = _options(self)
        self.front = ConvNorm(self.features, self.scale, self.is_plain, **options)
        self.residual = [ConvNorm(self.features, **options) for _ in range(2)]
        self.gates = {name: Gate(axis, **options) for name, axis in _GATES.items()}

    def __call__(
        self, x: Features, train: bool
    ) -> Float[Array, "batch out_height out_width features"]:
        x = self.front(x, train)
        for residual in self.residual:
            x = x + residual(x, train)
        return sum(gate(x, train) for gate in self.gates.values()) / 3


def _options(module):
    return {name: getattr(module, name) for name in ("image_statistics", "dtype", "precision")}


class GKMNet(nn.Module):
    """The network, with attributes that describe its architecture.

    Attributes:
      widths: Channels of the U-Net at full, half and quarter of a scale's resolution.
      num_blurs: Number of Gaussian kernels, including the impulse.
      image_statistics: Normalize with each image's own statistics outside training.
      dtype: Dtype of the convolutions. Images and blurs are float32.
      precision: Precision of products; see `jax.lax.Precision`.
    """

    views: ClassVar[int] = 1
    LOSS_TERMS: ClassVar[dict[str, float]] = {"pyramid_mse": 1.0, "pyramid_ssim": 0.0}
    tiling: ClassVar[WholeImage] = WholeImage(16)

    widths: tuple[int, int, int] = (32, 64, 128)
    num_blurs: int = 22
    image_statistics: bool = True
    dtype: str = "float32"
    precision: str = "highest"

    def setup(self):
        options = _options(self)
        first, second, third = self.widths
        self.first = Block(first, is_plain=True, **options)
        self.down = [Block(width, 1 / 2, **options) for width in (second, third)]
        self.bottleneck = Block(third, **options)
        self.up = [Block(width, 2, **options) for width in (second, first)]
        self.maps = RecurrentMaps(2 * self.num_blurs, **options)
        self.sum = conv_layer(self, 3, 1)

    def __call__(
        self, image: Float[ArrayLike, "batch height width 3"], train: bool = False
    ) -> Images:
        """Returns the restored images, not clipped.

        Args:
          image: RGB in [0, 1]; sides are multiples of 16.
          train: Normalize with the batch statistics and update the running statistics.
        """
        return self._outputs(image, train)[-1]

    def training_outputs(
        self,
        blurred: Float[ArrayLike, "batch height width 3"],
        sharp: Float[ArrayLike, "batch height width 3"],
        train: bool,
        terms: frozenset[str],
    ) -> tuple[Images, dict[str, Float[Array, " batch"]]]:
        """Returns the restored images and the loss terms, one value for each image.

        The published training minimizes `pyramid_mse`, in some epochs `pyramid_ssim`. Both are sums
        over the three scales.

        Args:
          blurred: See `__call__`.
          sharp: The target, RGB in [0, 1].
          train: See `__call__`.
          terms: Names in `LOSS_TERMS` of the terms to compute.
        """
        outputs = self._outputs(blurred, train)
        return outputs[-1], pyramid_losses(outputs, pillow_pyramid(sharp), (1.0, 1.0, 1.0), terms)

    @nn.nowrap
    def check_training(self, crop: int, batch_size: int, weights: Mapping[str, float]) -> None:
        """Raises `UserError` if crops are too small for the loss terms; see `models.network`."""
        check_pyramid(self, crop, weights)

    def _outputs(self, image, train) -> list[Images]:
        """Returns the outputs at quarter, half and full resolution."""
        check_image(image.shape, self.views, self.tiling.multiple, (1,))
        images = pillow_pyramid(image)
        carry, outputs = self.maps.initial_carry(images[0]), []
        for blurred in images:
            estimate = enlarge(outputs[-1], 2) if outputs else blurred
            carry = enlarged_carry(carry) if outputs else carry
            output, carry = self._scale(blurred, estimate, carry, train)
            outputs.append(output)
        return outputs

    def _scale(self, blurred, estimate, carry, train) -> tuple[Images, Carry]:
        maps, carry = self.maps(self._features(blurred, train), carry, train)
        weights = jnp.split(2 * nn.sigmoid(maps) - 1, 2, axis=-1)
        stacks = [
            gaussian_blurs(image, self.num_blurs) * weight[..., None, :]
            for image, weight in zip((blurred, estimate), weights, strict=True)
        ]
        weighted = jnp.stack(stacks, axis=3).reshape(*maps.shape[:3], -1)
        return self.sum(weighted).astype(blurred.dtype), carry

    def _features(self, image, train):
        half = self.down[0](self.first(image, train), train)
        quarter = self.down[1](half, train)
        quarter = self.bottleneck(quarter, train) + quarter
        return self.up[1](self.up[0](quarter, train) + half, train)


def published_entries(network: GKMNet) -> dict[Path, Entry]:
    """Returns the name and layout of each variable in the published checkpoint."""
    parts = [
        *(_block_entries(path, name) for path, name in _BLOCKS.items()),
        _conv_norm_entries(("maps",), "APU.conv.conv"),
        conv(("maps", "lstm", "gates"), "APU.conv_atten.conv"),
        conv(("sum",), "SumLayer.conv"),
    ]
    return joined(parts)


def published_unused(network: GKMNet) -> dict[str, np.ndarray]:
    """Returns the published checkpoint's entries that the network does not read."""
    variances = (e.name for e in published_entries(network).values() if "running_var" in e.name)
    return {
        name.replace("running_var", "num_batches_tracked"): np.zeros((), np.int64)
        for name in variances
    }


def _block_entries(path, name):
    front = conv((path, "front", "conv"), f"{name}.conv.0")
    if path.startswith("up"):
        front = conv((path, "front", "conv"), f"{name}.conv.0", CONV_TRANSPOSE)
    if path != "first":
        front |= batch_norm((path, "front", "norm"), f"{name}.conv.1")
    parts = [front]
    for i, part in enumerate(("conv", "conv1")):
        parts.append(_conv_norm_entries((path, f"residual_{i}"), f"{name}.res_block.{part}"))
    for gate in _GATES:
        ours, theirs = (path, f"gates_{gate}"), f"{name}.ta.{gate}.conv"
        parts.append(conv((*ours, "conv"), f"{theirs}.conv", bias=False))
        parts.append(batch_norm((*ours, "norm"), f"{theirs}.bn"))
    return joined(parts)


def _conv_norm_entries(path, name):
    return conv((*path, "conv"), f"{name}.0") | batch_norm((*path, "norm"), f"{name}.1")
