"""Depthwise 3 x 3 convolution, with the fastest implementation for each platform."""

import functools

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.convolution import PYTORCH_KERNEL_INIT
from vitdeblur_jax.models.layers.cpu_depthwise import depthwise_by_shifts


class DepthwiseConv(nn.Module):
    """A depthwise 3 x 3 convolution with zero padding and without bias.

    Attributes:
      dtype: Dtype of the computation; the parameters are float32.
      precision: Precision of the products, see `jax.lax.Precision`.
    """

    dtype: str = "float32"
    precision: str | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        shape = (3, 3, 1, x.shape[-1])
        kernel = self.param("kernel", PYTORCH_KERNEL_INIT, shape).astype(self.dtype)
        direct = functools.partial(depthwise_by_xla, precision=self.precision)
        return jax.lax.platform_dependent(
            x.astype(self.dtype), kernel, cpu=depthwise_by_shifts, default=direct
        )


def depthwise_by_xla(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "3 3 1 channels"],
    precision: str | None = None,
) -> Float[Array, "batch height width channels"]:
    """Convolves each channel with XLA's own grouped convolution."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
        precision=precision,
    )
