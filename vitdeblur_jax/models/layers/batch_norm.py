"""Batch norm with PyTorch's running statistics."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float


class BatchNorm(nn.Module):
    """Normalizes each channel, then scales and shifts it.

    Unlike Linen's batch norm, it updates the running variance with the unbiased variance, and it
    can normalize each image with its own statistics. Each call in training updates the running
    statistics.

    Attributes:
      momentum: Decay of the running statistics: new = momentum * old + (1 - momentum) * batch.
        PyTorch calls 1 - momentum the momentum.
      image_statistics: Whether to normalize with each image's own statistics outside of training,
        instead of the running ones.
      epsilon: Added to the variance.
      dtype: Dtype of the output; statistics are float32.
    """

    momentum: float = 0.9
    image_statistics: bool = False
    epsilon: float = 1e-5
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[ArrayLike, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch height width channels"]:
        channels = x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels)
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        x = x.astype(jnp.float32)
        if train:
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
            if not self.is_initializing():
                values = x.size // x.shape[-1]
                self._update(running_mean, mean)
                self._update(running_var, var * (values / max(values - 1, 1)))
        elif self.image_statistics:
            mean, var = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
        else:
            mean, var = running_mean.value, running_var.value
        normalized = (x - mean) * (jax.lax.rsqrt(var + self.epsilon) * scale) + bias
        return normalized.astype(self.dtype)

    def _update(self, running, batch):
        running.value = self.momentum * running.value + (1 - self.momentum) * batch
