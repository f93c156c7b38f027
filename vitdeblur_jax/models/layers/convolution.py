"""Convolutions: layers for all networks, and large kernels in the fastest form per platform."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import variance_scaling
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.cpu_convolution import convolution_by_fourier_transform

# PyTorch's default initializer of a convolution's kernel: uniform in ±1 / sqrt(fan in).
PYTORCH_KERNEL_INIT = variance_scaling(1 / 3, "fan_in", "uniform")
_PYTORCH = {"kernel_init": PYTORCH_KERNEL_INIT}


def conv_layer(
    module: nn.Module, features: int, side: int, name: str | None = None, **settings
) -> nn.Conv:
    """Returns a convolution in a module, with the module's dtype and precision.

    Args:
      module: The module that contains it.
      features: Channels of the output.
      side: Side of the kernel.
      name: Name, only in a compact module.
      **settings: Further arguments of `nn.Conv`. The default of `kernel_init` is PyTorch's.
    """
    return nn.Conv(features, (side, side), name=name, **_numerics(module), **_PYTORCH | settings)


def doubling_layer(
    module: nn.Module, features: int, side: int, name: str | None = None, **settings
) -> nn.ConvTranspose:
    """Returns a transposed convolution that doubles the size, with PyTorch's order of taps.

    Tap o - 2 i + side / 2 - 1 connects input pixel i to output pixel o, as in PyTorch with a
    padding of side / 2 - 1.

    Args:
      module: The module that contains it.
      features: Channels of the output.
      side: Side of the kernel, even.
      name: Name, only in a compact module.
      **settings: Further arguments of `nn.ConvTranspose`; for `kernel_init` see `conv_layer`.
    """
    settings = {"transpose_kernel": True, **_numerics(module), **_PYTORCH, **settings}
    return nn.ConvTranspose(features, (side, side), (2, 2), name=name, **settings)


def _numerics(module):
    return {"dtype": module.dtype, "precision": module.precision}


def valid_convolution(
    image: Float[ArrayLike, "batch height width channels"],
    kernel: Float[ArrayLike, "kernel_height kernel_width channels features"],
    precision: str | None = None,
) -> Float[Array, "batch out_height out_width features"]:
    """Convolves without padding; the kernel is not flipped. A CPU uses the Fourier transform."""
    return jax.lax.platform_dependent(
        image,
        kernel,
        cpu=convolution_by_fourier_transform,
        default=functools.partial(direct_convolution, precision=precision),
    )


def direct_convolution(
    image: Float[ArrayLike, "batch height width channels"],
    kernel: Float[ArrayLike, "kernel_height kernel_width channels features"],
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
    precision: str | None = None,
) -> Float[Array, "batch out_height out_width features"]:
    """Convolves with XLA's own convolution and the same zero padding of both axes."""
    return jax.lax.conv_general_dilated(
        image,
        kernel,
        (stride, stride),
        (padding, padding),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )


def fan_in_uniform(fan_in: int):
    """Returns PyTorch's default initializer of a convolution: uniform in ±1 / sqrt(fan in)."""
    bound = fan_in**-0.5

    def initialize(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return initialize
