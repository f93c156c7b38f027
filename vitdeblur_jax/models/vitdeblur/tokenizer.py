"""The tokenizer: normalization, overlapping patches, position embedding and class token."""

import math

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.convolution import fan_in_uniform
from vitdeblur_jax.models.vitdeblur.position_embedding import (
    resize_position_embedding,
    sincos_position_embedding,
)

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)


class Tokenizer(nn.Module):
    """Turns RGB images in [0, 1] into a class token and a token per overlapping patch.

    The position embedding is not trained. The collection "position_embedding" holds it for the grid
    of the training crops; it is resized to the grid of the image.

    Attributes:
      width: Channels of a token.
      patch_size: Side of a patch, pixels.
      patch_stride: Step between patches, pixels.
      position_grid: Side of the position table in a checkpoint, tokens.
      pretraining_grid: Side of the sin-cos grid that the table is resized from, tokens; 14 in MAE.
      dtype: Dtype of the computation.
      precision: Precision of the convolution, see `jax.lax.Precision`.
    """

    width: int
    patch_size: int
    patch_stride: int
    position_grid: int
    pretraining_grid: int
    dtype: str = "float32"
    precision: str | None = None

    def setup(self):
        self.patch_embedding = nn.Conv(
            self.width,
            (self.patch_size, self.patch_size),
            (self.patch_stride, self.patch_stride),
            padding="VALID",
            dtype=self.dtype,
            precision=self.precision,
            kernel_init=_flattened_xavier_uniform,
            bias_init=fan_in_uniform(3 * self.patch_size**2),
        )
        self.class_token = self.param("class_token", nn.initializers.normal(0.02), (self.width,))
        self.position_table = self.variable("position_embedding", "table", self._initial_table)

    def __call__(
        self, image: Float[ArrayLike, "batch height width 3"]
    ) -> Float[Array, "batch tokens channels"]:
        patches = self.patch_embedding((image - IMAGENET_MEAN) / IMAGENET_STD)
        batch, rows, columns, width = patches.shape
        position = resize_position_embedding(self.position_table.value, rows, columns)
        position = position.astype(self.dtype)
        tokens = patches.reshape(batch, rows * columns, width) + position[1:]
        first = jnp.broadcast_to(
            self.class_token.astype(self.dtype) + position[0], (batch, 1, width)
        )
        return jnp.concatenate([first, tokens], axis=1)

    def _initial_table(self):
        table = jnp.asarray(sincos_position_embedding(self.pretraining_grid, self.width))
        return resize_position_embedding(table, self.position_grid, self.position_grid)


def _flattened_xavier_uniform(key, shape, dtype=jnp.float32):
    """Xavier-uniform initialization of the flattened patch, as in MAE."""
    matrix = (math.prod(shape[:-1]), shape[-1])
    return nn.initializers.xavier_uniform()(key, matrix, dtype).reshape(shape)
