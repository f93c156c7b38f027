"""Filters for each pixel, predicted and applied in sequence, as in IFANet."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.adaptive_filter import adaptive_filter
from vitdeblur_jax.models.layers.leaky import leaky_relu

WIDE_XAVIER = nn.initializers.variance_scaling(1.5**2, "fan_avg", "uniform")

_TAPS = 3


class IterativeFilters(nn.Module):
    """Predicts separable filters and biases for each pixel and applies them in sequence.

    The parameters are those of a 1 x 1 convolution in the published order. For each iteration they
    contain the taps of a used and of an unused filter, tap by tap for each channel. The biases of
    all iterations follow.

    Attributes:
      iterations: Number of filters.
      dtype, precision: See `LeakyConv`.
    """

    iterations: int
    dtype: str
    precision: str

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        features: Float[Array, "batch height width features"],
    ) -> Float[Array, "batch height width channels"]:
        """Returns the filtered `x`. The filters are predicted from `features`."""
        channels, fan_in = x.shape[-1], features.shape[-1]
        rows = self.iterations * channels * (2 * _TAPS + 1)
        kernel = self.param("kernel", WIDE_XAVIER, (fan_in, rows)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (rows,)).astype(self.dtype)

        def iterate(x, layer):
            kernel, bias = layer
            predicted = jnp.matmul(features, kernel, precision=self.precision) + bias
            return _filter_once(x, predicted), None

        layers = (self._by_iteration(kernel, channels), self._by_iteration(bias[None], channels))
        return jax.lax.scan(iterate, x, layers)[0]

    def _by_iteration(self, kernel, channels):
        """Returns (iterations, fan in, (taps + 1) x channels): the used taps, then the biases."""
        split = 2 * self.iterations * channels * _TAPS
        shape = (-1, self.iterations, 2, channels, _TAPS)
        taps = kernel[:, :split].reshape(shape)[:, :, 0].transpose(1, 0, 3, 2)
        biases = kernel[:, split:].reshape(-1, self.iterations, 1, channels).transpose(1, 0, 2, 3)
        joined = jnp.concatenate([taps, biases], axis=2)
        return joined.reshape(*joined.shape[:2], -1)


def _filter_once(x, predicted):
    *taps, bias = jnp.split(predicted, _TAPS + 1, axis=-1)
    filters = jnp.stack(taps, axis=3)
    vertical = adaptive_filter(x, filters[:, :, :, :, None])
    return leaky_relu(adaptive_filter(vertical, filters[:, :, :, None]) + bias)
