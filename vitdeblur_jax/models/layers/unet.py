"""Layers of the U-Nets of DPDNet and MDP."""

import flax.linen as nn
from jaxtyping import Array, Float


class ReluConv(nn.Module):
    """A convolution with bias, then a ReLU. The output has the input's size.

    The zero padding is that of Keras: with an even kernel, the bottom and the right get the extra
    row and column.

    Attributes:
      features: Channels of the output.
      kernel_size: Side of the kernel.
      dtype: Dtype of the computation.
      precision: Precision of the products, see `jax.lax.Precision`.
    """

    features: int
    kernel_size: int = 3
    dtype: str = "float32"
    precision: str = "highest"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width features"]:
        return nn.relu(same_conv(self, self.features, self.kernel_size, "conv")(x))


def same_conv(module: nn.Module, features: int, kernel_size: int, name: str) -> nn.Conv:
    """Returns a convolution with Keras' padding, He-normal kernels and the module's dtype."""
    return nn.Conv(
        features,
        (kernel_size, kernel_size),
        padding="SAME",
        kernel_init=nn.initializers.he_normal(),
        dtype=module.dtype,
        precision=module.precision,
        name=name,
    )


def max_pool(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch half_height half_width channels"]:
    """Returns the maximum over blocks of 2 x 2 pixels."""
    return nn.max_pool(x, (2, 2), (2, 2))
