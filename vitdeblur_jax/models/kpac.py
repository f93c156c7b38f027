"""KPAC: kernel-sharing parallel atrous convolutions.

Son, Lee, Cho, Lee, "Single Image Defocus Deblurring Using Kernel-Sharing Parallel Atrous
Convolutions", ICCV 2021, arXiv 2108.09108. An encoder and a decoder with two blocks between them. A
block applies the same 5 x 5 kernel at five dilation rates, as inverse kernels for five blur sizes.
Scale attention weights the rates for each pixel, and shape attention weights the channels.

1 578 277 parameters with two levels, 2 057 893 with three, 2 061 493 with two views. The published
code is under the GNU AGPL v3. Its repository has the weights, `pretrained/single_2level.npz`,
`single_3level.npz` and `dual.npz`. Each file contains one array of objects, `params`, without
names. The name `param_007` stands for the entry at index 7.

The published network takes and returns images in [-1, 1]. The dual-pixel network takes both views
and adds its residual to the combined image: the mean of the views (`views=2`), or the image of the
camera (`views=3`) as in the published network.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.leaky import LeakyUpsample
from vitdeblur_jax.models.layers.views import views_and_combined
from vitdeblur_jax.models.published import Entry, Path, position_name
from vitdeblur_jax.models.tilings import WholeImage, check_image
from vitdeblur_jax.utils.config_checks import integer, sequence

CONFIGURATIONS = {
    "kpac": {},
    "kpac_3level": {"levels": 3},
    "kpac_dual": {"levels": 3, "views": 2},
}
RULES = {
    "levels": integer(2, 8),
    "width": integer(4, 4096),
    "rates": sequence(integer(1, 64), length=(1, 16)),
    "attention_widths": sequence(integer(1, 4096), length=(1, 8)),
    "views": integer(1, 3),
}

Features = Float[Array, "batch height width channels"]

_KERNEL_INIT = nn.initializers.normal(0.04)
_SLOPE = 0.2
_leaky_relu = functools.partial(nn.leaky_relu, negative_slope=_SLOPE)


class Conv(nn.Module):
    """A convolution with bias and TensorFlow's zero padding, followed by an activation.

    Attributes:
      features: Channels of the output.
      kernel_size: Side of the kernel.
      stride: Stride of the convolution.
      rate: Dilation rate.
      activation: "leaky_relu" of slope 0.2, "sigmoid" or "none".
      dtype, precision: See `KPAC`.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    rate: int = 1
    activation: str = "leaky_relu"
    dtype: str = "float32"
    precision: str = "highest"

    @nn.compact
    def __call__(self, x: Features) -> Float[Array, "batch out_height out_width features"]:
        x = nn.Conv(
            self.features,
            (self.kernel_size, self.kernel_size),
            self.stride,
            kernel_dilation=self.rate,
            kernel_init=_KERNEL_INIT,
            dtype=self.dtype,
            precision=self.precision,
            name="conv",
        )(x)
        activations = {"leaky_relu": _leaky_relu, "sigmoid": nn.sigmoid, "none": lambda x: x}
        return activations[self.activation](x)


class SharedKernel(nn.Module):
    """Convolutions at several dilation rates with the same kernel, without bias, and leaky ReLUs.

    Attributes:
      features: Output channels of each rate.
      rates: Dilation rates.
      dtype, precision: See `KPAC`.
    """

    features: int
    rates: tuple[int, ...]
    dtype: str = "float32"
    precision: str = "highest"

    @nn.compact
    def __call__(self, x: Features) -> Float[Array, "batch height width rates features"]:
        kernel = self.param("kernel", _KERNEL_INIT, (5, 5, x.shape[-1], self.features))
        convolve = functools.partial(
            jax.lax.conv_general_dilated,
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=self.precision,
        )
        convolved = [convolve(rhs_dilation=(rate, rate)) for rate in self.rates]
        return _leaky_relu(jnp.stack(convolved, axis=3))


class Block(nn.Module):
    """Parallel convolutions with a shared kernel, weighted by scale and shape attention.

    Attributes:
      features: Channels of the input and the output. Each rate has half as many.
      rates, attention_widths, dtype, precision: See `KPAC`.
    """

    features: int
    rates: tuple[int, ...]
    attention_widths: tuple[int, ...]
    dtype: str = "float32"
    precision: str = "highest"

    def setup(self):
        numerics = {"dtype": self.dtype, "precision": self.precision}
        half = self.features // 2
        self.shared = SharedKernel(half, self.rates, **numerics)
        self.scale_attention = [
            *(Conv(width, 5, rate=2, **numerics) for width in self.attention_widths),
            Conv(len(self.rates), 5, activation="sigmoid", **numerics),
        ]
        self.shape_attention = [
            Conv(self.features // 8, 1, **numerics),
            Conv(half, 1, activation="sigmoid", **numerics),
        ]
        self.fuse = Conv(self.features, **numerics)

    def __call__(self, x: Features) -> Features:
        scale, shape = x, x.mean((1, 2), keepdims=True)
        for conv in self.scale_attention:
            scale = conv(scale)
        for conv in self.shape_attention:
            shape = conv(shape)
        weighted = self.shared(x) * scale[..., None] * shape[..., None, :]
        return self.fuse(weighted.reshape(*x.shape[:3], -1))


class KPAC(nn.Module):
    """The network, with attributes that describe its architecture.

    Attributes:
      levels: Number of times that the encoder halves the size.
      width: Channels at full and half resolution. Coarser levels have twice as many.
      rates: Dilation rates in a block.
      attention_widths: Channels of the scale attention's hidden layers.
      views: 1; 2 (left and right); or 3 (left, right and combined).
      dtype: Dtype of the computation.
      precision: Precision of products; see `jax.lax.Precision`.
    """

    levels: int = 2
    width: int = 48
    rates: tuple[int, ...] = (1, 2, 3, 4, 5)
    attention_widths: tuple[int, ...] = (32, 32, 16, 16)
    views: int = 1
    dtype: str = "float32"
    precision: str = "highest"

    @property
    def tiling(self) -> WholeImage:
        """The whole image, because shape attention averages over it."""
        return WholeImage(2**self.levels)

    def setup(self):
        numerics = {"dtype": self.dtype, "precision": self.precision}
        widths = [self.width, self.width, *[2 * self.width] * (self.levels - 1)]
        deepest = widths[-1]
        self.down = [
            Conv(widths[0], 5, **numerics),
            *(Conv(width, stride=2, **numerics) for width in widths[1:]),
        ]
        self.encoder = [Conv(width, **numerics) for width in widths]
        blocks = functools.partial(Block, deepest, self.rates, self.attention_widths, **numerics)
        self.blocks = [blocks() for _ in range(2)]
        self.mix = [Conv(deepest, **numerics) for _ in range(2)]
        up = functools.partial(LeakyUpsample, kernel_init=_KERNEL_INIT, slope=_SLOPE, **numerics)
        self.up = [up(width) for width in widths[-2::-1]]
        self.decoder = [
            *(Conv(width, **numerics) for width in widths[-2:0:-1]),
            Conv(3, 5, activation="none", **numerics),
        ]

    def __call__(
        self, image: Float[ArrayLike, "batch height width channels"]
    ) -> Float[Array, "batch height width 3"]:
        """Restores images.

        Args:
          image: `3 * views` channels, RGB in [0, 1]; sides are multiples of `tiling.multiple`.

        Returns:
          RGB, not clipped.

        Raises:
          UserError: The number of channels or the size is not supported.
        """
        check_image(image.shape, self.views, self.tiling.multiple, (1, 2, 3))
        views, combined = views_and_combined(jnp.asarray(image, jnp.float32))
        x, skips = 2 * views - 1, []
        for down, encoder in zip(self.down, self.encoder, strict=True):
            x = encoder(down(x))
            skips.append(x)
        parts = [skips.pop()]
        for block in self.blocks:
            parts.append(block(parts[-1]))
        x = jnp.concatenate(parts, axis=-1)
        for conv in self.mix:
            x = conv(x)
        for up, decoder in zip(self.up, self.decoder, strict=True):
            x = decoder(jnp.concatenate([up(x), skips.pop()], axis=-1))
        return combined + x / 2


def published_entries(network: KPAC) -> dict[Path, Entry]:
    """Returns the name (`param_` and the index) and layout of each variable in published files."""
    paths = []
    for level in range(network.levels + 1):
        paths += _conv_paths(f"down_{level}", "conv") + _conv_paths(f"encoder_{level}", "conv")
    for block in ("blocks_0", "blocks_1"):
        paths.append((block, "shared", "kernel"))
        for i in range(len(network.attention_widths) + 1):
            paths += _conv_paths(block, f"scale_attention_{i}", "conv")
        for part in ("shape_attention_0", "shape_attention_1", "fuse"):
            paths += _conv_paths(block, part, "conv")
    paths += _conv_paths("mix_0", "conv") + _conv_paths("mix_1", "conv")
    for level in range(network.levels):
        paths += _conv_paths(f"up_{level}", "conv") + _conv_paths(f"decoder_{level}", "conv")
    return {("params", *path): Entry(position_name(i)) for i, path in enumerate(paths)}


def _conv_paths(*path):
    return [(*path, "kernel"), (*path, "bias")]
