"""Layers of the U-Nets of DPDNet, MDP and AIFNet."""

import flax.linen as nn
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.convolution import conv_layer


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


def same_conv(module: nn.Module, features: int, kernel_size: int, name: str, **settings) -> nn.Conv:
    """Returns a `conv_layer` with Keras' zero padding and He-normal kernels."""
    settings = {"kernel_init": nn.initializers.he_normal()} | settings
    return conv_layer(module, features, kernel_size, name, **settings)


def max_pool(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch half_height half_width channels"]:
    """Returns the maximum over blocks of 2 x 2 pixels."""
    return nn.max_pool(x, (2, 2), (2, 2))
