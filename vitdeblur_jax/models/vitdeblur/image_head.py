"""The image head, which turns the input plus the feature map into an image."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.convolution import fan_in_uniform, valid_convolution


class ImageHead(nn.Module):
    """Convolves the input, adds the feature map, pads by reflection and convolves to RGB.

    Each step can be called alone, which allows tiling of a large image.

    Attributes:
      features: Channels of the feature map.
      input_kernel: Side of the first kernel, odd. It trims (input_kernel - 1) / 2 pixels per side.
      output_kernel: Side of the second kernel, odd.
      views: 1 (the image is used twice, as in the reference) or 2 (left and right).
      dtype, precision: See `TransformerBlock`.
    """

    features: int
    input_kernel: int
    output_kernel: int
    views: int = 1
    dtype: str = "float32"
    precision: str | None = None

    def setup(self):
        self.input_convolution = ValidConvolution(
            6, self.features, self.input_kernel, self.dtype, self.precision
        )
        self.output_convolution = ValidConvolution(
            self.features, 3, self.output_kernel, self.dtype, self.precision
        )

    @property
    def padding(self) -> int:
        """Reflected pixels per side that restore the input's size."""
        return (self.input_kernel + self.output_kernel) // 2 - 1

    def __call__(
        self,
        views: Float[ArrayLike, "batch height width channels"],
        features: Float[Array, "batch trimmed_height trimmed_width features"],
    ) -> Float[Array, "batch height width 3"]:
        """Returns the image, not clipped."""
        p = self.padding
        joined = self.add_input(views, features)
        return self.to_image(jnp.pad(joined, ((0, 0), (p, p), (p, p), (0, 0)), mode="reflect"))

    def add_input(
        self,
        views: Float[ArrayLike, "batch height width channels"],
        features: Float[Array, "batch trimmed_height trimmed_width features"],
    ) -> Float[Array, "batch trimmed_height trimmed_width features"]:
        """Returns the feature map plus the encoded input."""
        return self.input_convolution(views, copies=2 // self.views) + features

    def to_image(
        self, padded: Float[Array, "batch height width features"]
    ) -> Float[Array, "batch out_height out_width 3"]:
        """Returns the float32 image of a padded map from `add_input`."""
        return self.output_convolution(padded).astype(jnp.float32)


class ValidConvolution(nn.Module):
    """A convolution with bias and without padding, with PyTorch's default initialization."""

    in_channels: int
    features: int
    kernel_size: int
    dtype: str = "float32"
    precision: str | None = None

    @nn.compact
    def __call__(
        self, image: Float[ArrayLike, "batch height width channels"], copies: int = 1
    ) -> Float[Array, "batch out_height out_width features"]:
        """Convolves `copies` of the image, concatenated along the channels.

        It sums the kernel over the copies first, which gives the same result for less work.
        """
        shape = (self.kernel_size, self.kernel_size, self.in_channels, self.features)
        initialize = fan_in_uniform(self.in_channels * self.kernel_size**2)
        kernel = self.param("kernel", initialize, shape)
        bias = self.param("bias", initialize, (self.features,))
        kernel = sum(jnp.split(kernel, copies, axis=2)).astype(self.dtype)
        image = jnp.asarray(image, self.dtype)
        return valid_convolution(image, kernel, self.precision) + bias.astype(self.dtype)
