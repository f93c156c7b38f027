"""Stacks of blurred copies of an image, which a network mixes pixel by pixel."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.convolution import PYTORCH_KERNEL_INIT


def recursive_blurs(
    image: Float[Array, "batch height width channels"], taps: Float[Array, "blurs channels 2"]
) -> Float[Array, "batch height width blurs_and_image channels"]:
    """Returns the image and copies of it, each blurred from the one before, as NRKNet does.

    Args:
      image: extended by reflection at each step.
      taps: (p, q) for each step and channel. The kernel softmax(p, q, p) filters rows and columns.
    """
    sides, centers = jnp.moveaxis(jax.nn.softmax(taps[..., (0, 1, 0)], axis=-1)[..., :2], -1, 0)

    def step(blurred, kernel):
        side, center = kernel
        padded = jnp.pad(blurred, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
        rows = center * padded[:, 1:-1] + side * (padded[:, :-2] + padded[:, 2:])
        blurred = center * rows[:, :, 1:-1] + side * (rows[:, :, :-2] + rows[:, :, 2:])
        return blurred, blurred

    _, blurs = jax.lax.scan(step, image, (sides, centers))
    return jnp.moveaxis(jnp.concatenate([image[None], blurs]), 0, 3)


class Reblur(nn.Module):
    """The blur S(v): a 1 x 1 convolution of weighted, recursively blurred copies of v.

    Attributes:
      num_blurs: kernels that blur one after the other.
      dtype: of the computation.
      precision: of the products, see `jax.lax.Precision`.
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
        numerics = {"dtype": self.dtype, "precision": self.precision}
        mixed = nn.Conv(3, (1, 1), kernel_init=PYTORCH_KERNEL_INIT, name="sum", **numerics)
        return mixed(weighted).astype(image.dtype)
