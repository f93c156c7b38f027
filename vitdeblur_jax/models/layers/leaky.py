"""Convolutions with a leaky ReLU, of slope 0.1 unless stated otherwise."""

from collections.abc import Sequence

import flax.linen as nn
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.convolution import PYTORCH_KERNEL_INIT


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
        conv = nn.Conv(
            self.features,
            (self.kernel_size, self.kernel_size),
            self.stride,
            padding=self.kernel_size // 2,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            precision=self.precision,
            name="conv",
        )
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


class LeakyUpsample(nn.Module):
    """A transposed convolution that doubles the size (4 x 4, stride 2), then the leaky ReLU.

    Tap o - 2 i + 1 connects input pixel i to output pixel o, as in PyTorch with padding 1.

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
        conv = nn.ConvTranspose(
            self.features,
            (4, 4),
            (2, 2),
            padding="SAME",
            transpose_kernel=True,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            precision=self.precision,
            name="conv",
        )
        return nn.leaky_relu(conv(x), self.slope)
