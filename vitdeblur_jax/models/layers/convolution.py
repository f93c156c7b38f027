"""Convolution with a large kernel, with the fastest implementation for each platform."""

import functools

import jax
import jax.numpy as jnp
from flax.linen.initializers import variance_scaling
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.cpu_convolution import convolution_by_fourier_transform

# PyTorch's default initializer of a convolution's kernel: uniform in ±1 / sqrt(fan in).
PYTORCH_KERNEL_INIT = variance_scaling(1 / 3, "fan_in", "uniform")


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
