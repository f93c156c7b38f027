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
      features: channels of the output.
      kernel_size: side of the kernel, odd.
      stride: the output has 1 / stride of the size.
      dtype: of the computation.
      precision: of the products, see `jax.lax.Precision`.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    dtype: str = "float32"
    precision: str = "highest"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch out_height out_width features"]:
        conv = nn.Conv(
            self.features,
            (self.kernel_size, self.kernel_size),
            self.stride,
            padding=self.kernel_size // 2,
            kernel_init=PYTORCH_KERNEL_INIT,
            dtype=self.dtype,
            precision=self.precision,
            name="conv",
        )
        return leaky_relu(conv(x))


class LeakyUpsample(nn.Module):
    """A transposed convolution that doubles the size (4 x 4, stride 2), then the leaky ReLU.

    Output pixel o takes in input pixel i by tap o - 2 i + 1, as PyTorch's with padding 1 does.

    Attributes:
      features, dtype, precision: see `LeakyConv`.
    """

    features: int
    dtype: str = "float32"
    precision: str = "highest"

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
            kernel_init=PYTORCH_KERNEL_INIT,
            dtype=self.dtype,
            precision=self.precision,
            name="conv",
        )
        return leaky_relu(conv(x))
