"""Convolutions with a leaky ReLU, of slope 0.1 unless stated otherwise."""

from collections.abc import Sequence

import flax.linen as nn
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.convolution import PYTORCH_KERNEL_INIT, conv_layer, doubling_layer
from vitdeblur_jax.models.published import CONV, Entry, Layout, Path, conv, joined


def leaky_relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns x if it is positive, else 0.1 x."""
    return nn.leaky_relu(x, 0.1)


class LeakyConv(nn.Module):
    """A convolution with bias and zero padding on all sides, then the leaky ReLU.

    Attributes:
      features: Channels of the output.
      kernel_size: Side of the kernel, odd.
      stride: Stride of the convolution.
      dtype: Dtype of the computation.
      precision: Precision of the products, see `jax.lax.Precision`.
      kernel_init: Initializer of the kernel.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    dtype: str = "float32"
    precision: str = "highest"
    kernel_init: nn.initializers.Initializer = PYTORCH_KERNEL_INIT

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch out_height out_width features"]:
        settings = {"strides": self.stride, "padding": self.kernel_size // 2}
        settings["kernel_init"] = self.kernel_init
        conv = conv_layer(self, self.features, self.kernel_size, "conv", **settings)
        return leaky_relu(conv(x))


class LeakyChain(nn.Module):
    """A sequence of convolutions, each with a leaky ReLU.

    Attributes:
      features: Output channels of each convolution.
      stride: Stride of the first convolution.
      last_kernel_size: Kernel side of the last convolution; the others have 3.
      dtype, precision, kernel_init: See `LeakyConv`.
    """

    features: tuple[int, ...]
    stride: int = 1
    last_kernel_size: int = 3
    dtype: str = "float32"
    precision: str = "highest"
    kernel_init: nn.initializers.Initializer = PYTORCH_KERNEL_INIT

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch out_height out_width features"]:
        numerics = (self.dtype, self.precision, self.kernel_init)
        last = len(self.features) - 1
        for i, features in enumerate(self.features):
            size = self.last_kernel_size if i == last else 3
            stride = 1 if i else self.stride
            x = LeakyConv(features, size, stride, *numerics, name=f"conv_{i}")(x)
        return x


def leaky_encoder(
    x: Float[Array, "batch height width channels"], widths: Sequence[int], name: str, **settings
) -> list[Float[Array, "batch _ _ _"]]:
    """Returns the features at each scale: three convolutions, from the second scale on of stride 2.

    Call it in a compact module. It creates the modules `name_1`, `name_2`, `name_4` and so on.

    Args:
      x: The input, at scale 1.
      widths: Channels at each scale.
      name: Prefix of the modules' names.
      **settings: dtype, precision and kernel_init of `LeakyChain`.
    """
    features = []
    for level, width in enumerate(widths):
        stride = 2 if level else 1
        chain = LeakyChain((width,) * 3, stride, **settings, name=f"{name}_{2**level}")
        features.append(x := chain(x))
    return features


def leaky_encoder_entries(
    path: str, name: str, levels: int, first: Layout = CONV
) -> dict[Path, Entry]:
    """Returns the published entries of a `leaky_encoder`: `name1_1.0.weight` and so on.

    Args:
      path: The encoder's name in this package.
      name: Its name in the published checkpoints of DRBNet and IFANet.
      levels: Number of scales.
      first: Layout of the first kernel.
    """
    return joined(
        conv(
            (f"{path}_{2**i}", f"conv_{j}", "conv"),
            f"{name}{i + 1}_{j + 1}.0",
            CONV if i or j else first,
        )
        for i in range(levels)
        for j in range(3)
    )


class LeakyUpsample(nn.Module):
    """A transposed convolution that doubles the size (4 x 4, stride 2), then the leaky ReLU.

    Attributes:
      features, dtype, precision, kernel_init: See `LeakyConv`.
      slope: Slope of the leaky ReLU for negative values.
    """

    features: int
    dtype: str = "float32"
    precision: str = "highest"
    kernel_init: nn.initializers.Initializer = PYTORCH_KERNEL_INIT
    slope: float = 0.1

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch out_height out_width features"]:
        conv = doubling_layer(self, self.features, 4, "conv", kernel_init=self.kernel_init)
        return nn.leaky_relu(conv(x), self.slope)
