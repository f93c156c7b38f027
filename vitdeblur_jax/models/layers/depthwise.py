"""Depthwise 3 x 3 convolution: one layer, computed in the fastest way of each platform."""

import functools

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.convolution import PYTORCH_KERNEL_INIT
from vitdeblur_jax.models.layers.cpu_depthwise import depthwise_by_shifts


class DepthwiseConv(nn.Module):
    """A 3 x 3 convolution of each channel by itself, zero padding, no bias.

    Attributes:
      dtype: Of the computation; the parameters are float32.
      precision: Of products, as `jax.lax.Precision` names it.
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
    """Convolves each channel by XLA's own grouped convolution."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
        precision=precision,
    )
