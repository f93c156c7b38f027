"""AIFNet: one network estimates a defocus map, another one restores the image with it.

Ruan, Chen, Li, Lam: "AIFNet: All-in-Focus Image Restoration Network Using a Light Field-Based
Dataset", IEEE Transactions on Computational Imaging 7, 2021. A VGG-19 encoder and a decoder
estimate a defocus map. Copies of the image are weighted by the distance of the map from each of 29
levels. A U-Net computes the restored image from the copies, without a residual to the input.

41 557 358 parameters and 6 730 running statistics. 1 591 828 of these values belong to side outputs
that only training needs; this network does not have them. The published code is under the GNU GPL
v3; its README links to the weights, `aifnet_pretrained.npz` (github.com/binorchen/AIFNET). The
training code is not published.

Peculiarities: the encoder takes BGR, the U-Net takes RGB. The networks of the defocus map extend
images by their border pixels, the U-Net extends them by zeros. Batch norm has no scale. The U-Net
upsamples by the convention of TensorFlow 1.
"""

import functools
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.resize import double_from_corner, nearest_upsample
from vitdeblur_jax.models.layers.unet import max_pool, same_conv
from vitdeblur_jax.models.published import SAME, Entry, Path, joined, keras_conv, reversed_along
from vitdeblur_jax.models.tilings import HaloTiles, check_image
from vitdeblur_jax.utils.config_checks import integer, sequence

CONFIGURATIONS = {"aifnet": {}}
RULES = {
    "encoder_widths": sequence(integer(2, 4096), length=5),
    "decoder_widths": sequence(integer(2, 4096), length=4),
    "levels": integer(1, 64),
    "deblurring_widths": sequence(integer(1, 4096), length=4),
}

_REFINEMENTS = 7
_VGG_CONVS = (2, 2, 4, 4, 4)
_VGG_MEAN = (123.68, 116.779, 103.939)  # RGB, of images in [0, 255]
_XAVIER = {"kernel_init": nn.initializers.xavier_uniform()}

_leaky_relu = functools.partial(nn.leaky_relu, negative_slope=0.2)

Maps = Float[Array, "batch height width channels"]


class AIFNet(nn.Module):
    """The whole network. Widths are numbers of channels from the finest to the coarsest level.

    Attributes:
      encoder_widths: Widths of the five encoder levels.
      decoder_widths: Widths of the four levels of the defocus decoder.
      levels: Number of defocus levels, each with a weighted copy of the image.
      deblurring_widths: Widths of the four levels of the U-Net.
      dtype: Dtype of the computation. The defocus map is float32.
      precision: Precision of products; see `jax.lax.Precision`.
    """

    views: ClassVar[int] = 1
    encoder_widths: tuple[int, int, int, int, int] = (64, 128, 256, 512, 512)
    decoder_widths: tuple[int, int, int, int] = (64, 64, 128, 256)
    levels: int = 29
    deblurring_widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    dtype: str = "float32"
    precision: str = "highest"

    @property
    def tiling(self) -> HaloTiles:
        """Tiles with the receptive field as halo."""
        return HaloTiles(halo=304, multiple=16)

    @nn.compact
    def __call__(
        self, image: Float[ArrayLike, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch height width 3"]:
        """Returns the restored image, in [0, 1].

        Args:
          image: RGB in [0, 1]; sides are multiples of 16.
          train: Normalize by the batch statistics and update the running statistics.
        """
        check_image(image.shape, self.views, self.tiling.multiple, (1,))
        image = jnp.asarray(image, jnp.float32)
        numerics = {"dtype": self.dtype, "precision": self.precision}
        x, features = 255 * image - jnp.array(_VGG_MEAN), []
        for i, (width, number) in enumerate(zip(self.encoder_widths, _VGG_CONVS, strict=True)):
            x = max_pool(x) if i else x
            x = EdgeConvs(**numerics, features=width, number=number, name=f"encoder_{i}")(x)
            features.append(x)
        decoder = DefocusDecoder(**numerics, widths=self.decoder_widths, name="decoder")
        logits = decoder(features, train)
        defocus = nn.sigmoid(logits.astype(jnp.float32))
        stack = defocus_stack(image, defocus, self.levels)
        logits = DeblurringUNet(**numerics, widths=self.deblurring_widths, name="unet")(stack)
        return nn.sigmoid(logits.astype(jnp.float32))


class Part(nn.Module):
    """A part of the network.

    Attributes:
      dtype, precision: See `AIFNet`.
    """

    dtype: str
    precision: str

    def edge_conv(self, x: Maps, features: int, name: str, kernel_size: int = 3, **settings):
        """Convolves images that are extended by their border pixels."""
        side = kernel_size // 2
        padded = jnp.pad(x, ((0, 0), (side, side), (side, side), (0, 0)), mode="edge")
        return same_conv(self, features, kernel_size, name, padding="VALID", **settings)(padded)

    @property
    def _numerics(self):
        return {"dtype": self.dtype, "precision": self.precision}


class EdgeConvs(Part):
    """Convolutions of images extended by their border pixels, each followed by a ReLU."""

    features: int
    number: int

    @nn.compact
    def __call__(self, x: Maps) -> Float[Array, "batch height width features"]:
        for i in range(self.number):
            x = nn.relu(self.edge_conv(x, self.features, f"conv_{i}"))
        return x


class NormConv(Part):
    """A convolution of images extended by their border pixels, batch norm and a leaky ReLU."""

    features: int
    kernel_size: int = 3

    @nn.compact
    def __call__(self, x: Maps, train: bool) -> Float[Array, "batch height width features"]:
        norm = nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            use_scale=False,
            use_fast_variance=False,
            dtype=self.dtype,
            name="norm",
        )
        return _leaky_relu(norm(self.edge_conv(x, self.features, "conv", self.kernel_size)))


class ZeroConv(Part):
    """A 3 x 3 convolution with zero padding and a leaky ReLU.

    With stride 2, pixel (y, x) of the output is centered at (2y + 1, 2x + 1) of the input.
    """

    features: int
    stride: int = 1
    dilation: int = 1

    @nn.compact
    def __call__(self, x: Maps) -> Float[Array, "batch out_height out_width features"]:
        settings = {"strides": self.stride, "kernel_dilation": self.dilation}
        return _leaky_relu(same_conv(self, self.features, 3, "conv", **settings)(x))


class DefocusDecoder(Part):
    """Computes the logits of the defocus map from the encoder features."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, features: list[Array], train: bool) -> Float[Array, "batch height width 1"]:
        def norm_conv(x, width, name):
            return NormConv(features=width, name=name, **self._numerics)(x, train)

        x = features[-1]
        for level, width in reversed(list(enumerate(self.widths))):
            x = jnp.concatenate([nearest_upsample(x), features[level]], axis=-1)
            for i in range(3 if level else 1):
                x = norm_conv(x, width, f"level_{level}_{i}")
        for i in range(_REFINEMENTS):
            x = Refinement(name=f"refinement_{i}", **self._numerics)(x, train)
        x = norm_conv(x, self.widths[0], "tail_0")
        x = norm_conv(x, self.widths[0] // 2, "tail_1")
        return self.edge_conv(x, 1, "logits", **_XAVIER)


class Refinement(Part):
    """A residual block with a 1 x 1 convolution in its shortcut."""

    @nn.compact
    def __call__(self, x: Maps, train: bool) -> Maps:
        conv = functools.partial(NormConv, features=x.shape[-1], **self._numerics)
        shortcut = conv(kernel_size=1, name="shortcut")(x, train)
        return conv(name="conv_1")(conv(name="conv_0")(x, train), train) + shortcut


class DeblurringUNet(Part):
    """Computes the logits of the restored image from the weighted copies."""

    widths: tuple[int, int, int, int]

    @nn.compact
    def __call__(self, x: Maps) -> Float[Array, "batch height width 3"]:
        conv = functools.partial(ZeroConv, **self._numerics)
        *upper, bottom = self.widths
        skips = []
        for level, width in enumerate(upper):
            for i in range(2 if level else 1):
                x = conv(features=width, name=f"encoder_{level}_{i}")(x)
            down = conv(features=self.widths[level + 1], stride=2, name=f"down_{level}")
            skips.append(x := down(x))
        for i in range(3):
            x = conv(features=bottom, dilation=2, name=f"bottleneck_{i}")(x)
        for level, width in reversed(list(enumerate(upper))):
            x = jnp.concatenate([x, skips[level]], axis=-1)
            x = double_from_corner(conv(features=width, name=f"up_{level}")(x))
            for i in range(2 if level == 2 else 1):
                x = conv(features=width, name=f"decoder_{level}_{i}")(x)
        return same_conv(self, 3, 3, "logits", **_XAVIER)(x)


def defocus_stack(
    image: Float[Array, "batch height width 3"],
    defocus: Float[Array, "batch height width 1"],
    levels: int,
) -> Float[Array, "batch height width stack"]:
    """Returns copies of the image weighted by 1 - |defocus - level|, for levels from 0 to 1."""
    weights = 1 - jnp.abs(defocus - jnp.linspace(0, 1, levels))
    stack = weights[..., None] * image[..., None, :]
    return stack.reshape(*image.shape[:3], -1)


def published_entries(network: AIFNet) -> dict[Path, Entry]:
    """Returns the name and layout of each variable in the published checkpoint."""
    parts = []
    for i, number in enumerate(_VGG_CONVS):
        for j in range(number):
            layout = SAME if i or j else reversed_along(2)  # published as BGR
            name = f"defocus_net/encoder/conv{i + 1}_{j + 1}"
            parts.append(keras_conv((f"encoder_{i}", f"conv_{j}"), name, layout))
    names = {("level_0_0",): ("u0", "_init"), ("tail_0",): ("uf", "1"), ("tail_1",): ("uf", "2")}
    names |= {(f"level_{n}_{i}",): (f"u{n}", f"{i + 1}") for n in (1, 2, 3) for i in range(3)}
    for i in range(_REFINEMENTS):
        names[f"refinement_{i}", "shortcut"] = ("u0", f"_res{i}")
        names[f"refinement_{i}", "conv_0"] = ("u0", f"{i}_1")
        names[f"refinement_{i}", "conv_1"] = ("u0", f"{i}_2")
    for path, (level, name) in names.items():
        path, level = ("decoder", *path), f"defocus_net/decoder/{level}"
        parts.append(keras_conv((*path, "conv"), f"{level}/c{name}"))
        parts.append(_norm_entries((*path, "norm"), f"{level}/b{name}"))
    parts.append(keras_conv(("decoder", "logits"), "defocus_net/decoder/uf/c3"))
    return joined([*parts, *_unet_entries()])


def _norm_entries(path: Path, name: str) -> dict[Path, Entry]:
    return {
        ("params", *path, "bias"): Entry(f"{name}/beta:0"),
        ("batch_stats", *path, "mean"): Entry(f"{name}/moving_mean:0"),
        ("batch_stats", *path, "var"): Entry(f"{name}/moving_variance:0"),
    }


def _unet_entries() -> list[dict[Path, Entry]]:
    blocks = (
        ("encoder_0_0", "down_0"),
        ("encoder_1_0", "encoder_1_1", "down_1"),
        ("encoder_2_0", "encoder_2_1", "down_2"),
        ("bottleneck_0", "bottleneck_1", "bottleneck_2"),
        ("up_2", "decoder_2_0", "decoder_2_1"),
        ("up_1", "decoder_1_0"),
        ("up_0", "decoder_0_0"),
    )
    prefix = "deblur_net/MDP_ds_0_n"
    parts = [
        keras_conv(("unet", path, "conv"), f"{prefix}{i}_{j}")
        for i, block in enumerate(blocks)
        for j, path in enumerate(block, start=1)
    ]
    return [*parts, keras_conv(("unet", "logits"), f"{prefix}_out")]


def published_unused(network: AIFNet) -> dict[str, np.ndarray]:
    """Returns neutral values of the side outputs, which only the published training uses."""
    unused = {}
    for level, width in enumerate((*network.decoder_widths, network.encoder_widths[-1])):
        name = f"defocus_net/decoder/u{level}_aux"
        for i, (channels, features) in enumerate(((width, width // 2), (width // 2, 1)), start=1):
            conv, norm = f"{name}/c{i}", f"{name}/b{i}"
            unused[f"{conv}/kernel:0"] = np.zeros((3, 3, channels, features), np.float32)
            zeros = (f"{conv}/bias:0", f"{norm}/beta:0", f"{norm}/moving_mean:0")
            unused |= {entry: np.zeros(features, np.float32) for entry in zeros}
            unused[f"{norm}/moving_variance:0"] = np.ones(features, np.float32)
    return unused
