"""Convolutions with a leaky ReLU of slope 0.1, as DRBNet and IFANet have them."""

import flax.linen as nn
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.convolution import PYTORCH_KERNEL_INIT


def leaky_relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns x where it is positive, else 0.1 x."""
    return nn.leaky_relu(x, 0.1)


class LeakyConv(nn.Module):
    """A convolution with bias and zero padding on all sides, then the leaky ReLU.

    Attributes:
      features: Channels of the output.
      kernel_size: Side of the kernel, odd.
      stride: The output has 1 / stride of the size.
      dtype: Of the computation.
      precision: Of the products, see `jax.lax.Precision`.
      kernel_init: Initial values of the kernel.
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
    """Convolutions one after the other, a leaky ReLU after each.

    Attributes:
      features: Channels of each.
      stride: Of the first.
      last_kernel_size: Of the last; the others have 3.
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


class LeakyUpsample(nn.Module):
    """A transposed convolution that doubles the size (4 x 4, stride 2), then the leaky ReLU.

    Output pixel o takes in input pixel i by tap o - 2 i + 1, as PyTorch's with padding 1 does.

    Attributes:
      features, dtype, precision, kernel_init: See `LeakyConv`.
    """

    features: int
    dtype: str = "float32"
    precision: str = "highest"
    kernel_init: nn.initializers.Initializer = PYTORCH_KERNEL_INIT

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
        return leaky_relu(conv(x))
