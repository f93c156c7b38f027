"""Convolution with a large kernel by the Fourier transform, for XLA:CPU.

XLA:CPU convolves directly, which is slow for the kernels of 11 and 13 pixels of the image head.

`python -m benchmarks.cpu_forms`, on two cores with AVX-512: the direct convolution takes 3.7 to 38
times as long.

Delete this file, and its branch in `convolution.py`, when all its lines of that command say so.
"""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float


def convolution_by_fourier_transform(
    image: Float[ArrayLike, "batch height width channels"],
    kernel: Float[ArrayLike, "kernel_height kernel_width channels features"],
) -> Float[Array, "batch out_height out_width features"]:
    """Convolves without padding, in float32; the kernel is not flipped. Returns image's dtype."""
    size, (kernel_height, kernel_width) = image.shape[1:3], kernel.shape[:2]
    # Values that wrap around lie outside the valid part, so the lengths affect only the speed.
    lengths = [fast_length(side) for side in size]
    channels_first = image.astype(jnp.float32).transpose(0, 3, 1, 2)
    flipped = kernel.astype(jnp.float32).transpose(2, 3, 0, 1)[:, :, ::-1, ::-1]
    spectrum, response = (jnp.fft.rfft2(x, lengths) for x in (channels_first, flipped))
    # Not an einsum: XLA's complex matrix product is slower here than sums of products.
    product = (spectrum[:, :, None] * response).sum(axis=1)
    full = jnp.fft.irfft2(product, lengths)
    valid = full[:, :, kernel_height - 1 : size[0], kernel_width - 1 : size[1]]
    return valid.transpose(0, 2, 3, 1).astype(image.dtype)


def fast_length(least: int) -> int:
    """Returns the smallest length from `least` on that has no prime factor above 5.

    `scipy.fft.next_fast_len(least, real=True)`, whose import takes as long as tracing the network.
    """
    length = least
    while _without_factors(length, (2, 3, 5)) > 1:
        length += 1
    return length


def _without_factors(number: int, primes: tuple[int, ...]) -> int:
    for prime in primes:
        while number % prime == 0:
            number //= prime
    return number
