"""Depthwise 3 x 3 convolution as a sum of shifted images, for XLA:CPU.

XLA:CPU is slow at convolutions with as many groups as channels.

`python -m benchmarks.cpu_forms`, on two cores with AVX-512: the grouped convolution takes 11 to 79
times as long forward, and 31 times with the gradient in float32. With the gradient in bfloat16,
both take about as long.

Delete this file, and its branch in `depthwise.py`, when all its lines of that command say so.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def depthwise_by_shifts(
    x: Float[Array, "batch height width channels"], kernel: Float[Array, "3 3 1 channels"]
) -> Float[Array, "batch height width channels"]:
    """Convolves each channel, with zero padding, as a sum of nine shifted images."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(
        padded[:, i : i + height, j : j + width] * kernel[i, j, 0]
        for i in range(3)
        for j in range(3)
    )
