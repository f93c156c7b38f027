"""Stacks of blurred copies of an image, for networks that mix them with weights per pixel."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.convolution import conv_layer


def recursive_blurs(
    image: Float[Array, "batch height width channels"], taps: Float[ArrayLike, "blurs channels 2"]
) -> Float[Array, "batch height width blurs_and_image channels"]:
    """Returns the image and recursively blurred copies, as in NRKNet.

    Args:
      image: The image. Each step extends it by reflection.
      taps: (p, q) for each step and channel. The kernel softmax(p, q, p) filters rows and columns.
    """
    taps = jnp.asarray(taps)
    sides, centers = jnp.moveaxis(jax.nn.softmax(taps[..., (0, 1, 0)], axis=-1)[..., :2], -1, 0)

    def step(blurred, kernel):
        side, center = kernel
        padded = jnp.pad(blurred, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
        rows = center * padded[:, 1:-1] + side * (padded[:, :-2] + padded[:, 2:])
        blurred = center * rows[:, :, 1:-1] + side * (rows[:, :, :-2] + rows[:, :, 2:])
        return blurred, blurred

    _, blurs = jax.lax.scan(step, image, (sides, centers))
    return jnp.moveaxis(jnp.concatenate([image[None], blurs]), 0, 3)


def gaussian_blurs(
    image: Float[Array, "batch height width 3"], num_blurs: int
) -> Float[Array, "batch height width 3 blurs"]:
    """Returns blurred copies of the image in the permuted order of GKMNet.

    Kernel 0 is an impulse, kernel m a Gaussian of sigma m / 4. Copy j of channel c is blurred by
    kernel (num_blurs * c + j) // 3, not j: red has the narrow kernels, blue the wide ones. Zero
    padding darkens the borders.

    Args:
      image: The image, in any range.
      num_blurs: Number of kernels, and of copies of each channel.
    """
    kernels = np.arange(3 * num_blurs) // 3
    pairs = sorted({(n // num_blurs, kernel) for n, kernel in enumerate(kernels.tolist())})
    lines = np.stack([gaussian_line(kernel, num_blurs) for _, kernel in pairs], axis=-1)
    blurred = image[..., np.array([channel for channel, _ in pairs])]
    for axis in (1, 2):
        blurred = _filtered(blurred, lines, axis)
    order = [pairs.index((n // num_blurs, kernel)) for n, kernel in enumerate(kernels)]
    return blurred[..., np.array(order)].reshape(*image.shape, num_blurs)


def gaussian_line(kernel: int, num_blurs: int) -> Float[np.ndarray, " taps"]:
    """Returns the taps of a kernel along one axis, zero-padded to the size of the widest kernel."""
    line = np.zeros(2 * _radius(num_blurs - 1) + 1, np.float32)
    offsets = np.arange(-_radius(kernel), _radius(kernel) + 1)
    taps = np.exp(-(offsets**2) / (2 * (kernel / 4) ** 2)) if kernel else np.ones(1)
    line[offsets + len(line) // 2] = taps / taps.sum()
    return line


def _radius(kernel):
    return max(1, kernel // 2) if kernel else 0


def _filtered(image, lines, axis):
    """Filters an axis by a sum of shifted images; XLA's grouped convolution is slow on a CPU."""
    radius, size = len(lines) // 2, image.shape[axis]
    padding = [(0, 0)] * 4
    padding[axis] = (radius, radius)
    padded = jnp.pad(image, padding)
    return sum(
        jax.lax.slice_in_dim(padded, i, i + size, axis=axis) * line for i, line in enumerate(lines)
    )


class Reblur(nn.Module):
    """The blur S(v): a 1 x 1 convolution of weighted, recursively blurred copies of v.

    Attributes:
      num_blurs: Number of recursive blurs.
      dtype: Dtype of the computation.
      precision: Precision of the products, see `jax.lax.Precision`.
    """

    num_blurs: int
    dtype: str = "float32"
    precision: str = "highest"

    @nn.compact
    def __call__(
        self,
        maps: Float[Array, "batch height width blurs"],
        image: Float[Array, "batch height width 3"],
    ) -> Float[Array, "batch height width 3"]:
        taps = self.param("taps", nn.initializers.zeros, (self.num_blurs, 3, 2))
        blurred = recursive_blurs(image, taps)
        weighted = (maps[..., None] * blurred).reshape(*maps.shape[:3], -1)
        return conv_layer(self, 3, 1, "sum")(weighted).astype(image.dtype)
