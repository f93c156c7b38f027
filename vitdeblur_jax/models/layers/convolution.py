"""Convolution with a large kernel, and the one place that chooses how it is computed."""

import functools

import jax
import jax.numpy as jnp
from flax.linen.initializers import variance_scaling
from jax.typing import ArrayLike
from jaxtyping import Array, Float

# PyTorch's default initialiser of a convolution's kernel: uniform in ±1 / sqrt(fan in).
PYTORCH_KERNEL_INIT = variance_scaling(1 / 3, "fan_in", "uniform")


def valid_convolution(
    image: Float[ArrayLike, "batch height width channels"],
    kernel: Float[ArrayLike, "kernel_height kernel_width channels features"],
    precision: str | None = None,
) -> Float[Array, "batch out_height out_width features"]:
    """Convolves without padding (the deep-learning way: the kernel is not flipped).

    On a CPU through the Fourier transform, several times faster than XLA's direct convolution for
    the kernels of 11 and 13 pixels that this model has, and more so in the backward pass; elsewhere
    directly.
    """
    return jax.lax.platform_dependent(
        image,
        kernel,
        cpu=_convolution_by_fourier_transform,
        default=functools.partial(direct_convolution, precision=precision),
    )


def direct_convolution(
    image: Float[ArrayLike, "batch height width channels"],
    kernel: Float[ArrayLike, "kernel_height kernel_width channels features"],
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
    precision: str | None = None,
) -> Float[Array, "batch out_height out_width features"]:
    """Convolves by XLA's own convolution, with zeros before and after both axes."""
    return jax.lax.conv_general_dilated(
        image,
        kernel,
        (stride, stride),
        (padding, padding),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )


def _convolution_by_fourier_transform(image, kernel):
    from scipy.fft import next_fast_len  # late: the import of the package need not wait for it

    size, (kernel_height, kernel_width) = image.shape[1:3], kernel.shape[:2]
    # What wraps around lands outside of the valid part, so only the speed depends on the length.
    lengths = [next_fast_len(side, real=True) for side in size]
    channels_first = image.astype(jnp.float32).transpose(0, 3, 1, 2)
    flipped = kernel.astype(jnp.float32).transpose(2, 3, 0, 1)[:, :, ::-1, ::-1]
    spectrum, response = (jnp.fft.rfft2(x, lengths) for x in (channels_first, flipped))
    # Not an einsum: XLA's complex matrix product is slower here than sums of products.
    product = (spectrum[:, :, None] * response).sum(axis=1)
    full = jnp.fft.irfft2(product, lengths)
    valid = full[:, :, kernel_height - 1 : size[0], kernel_width - 1 : size[1]]
    return valid.transpose(0, 2, 3, 1).astype(image.dtype)


def fan_in_uniform(fan_in: int):
    """Returns PyTorch's default initialiser of a convolution: uniform in ±1 / sqrt(fan in)."""
    bound = fan_in**-0.5

    def initialize(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return initialize
