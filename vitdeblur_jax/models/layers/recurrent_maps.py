"""Weight maps from a convolutional LSTM that runs over scales.

NRKNet and GKMNet use them as weights of their blur kernels.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.batch_norm import BatchNorm
from vitdeblur_jax.models.layers.convolution import conv_layer
from vitdeblur_jax.models.layers.resize import enlarge, nearest_upsample

Carry = tuple[
    Float[Array, "batch half_height half_width features"],
    Float[Array, "batch half_height half_width features"],
]


class ConvLSTM(nn.Module):
    """A convolutional LSTM cell (Shi et al., NeurIPS 2015) without peepholes.

    Linen's cell adds 1 to the forget gate and has another order of gates.

    Attributes:
      features: Channels of the state.
      dtype: Dtype of the computation.
      precision: Precision of the products, see `jax.lax.Precision`.
    """

    features: int
    dtype: str = "float32"
    precision: str = "highest"

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"], carry: Carry) -> Carry:
        """Returns the new state (h, c)."""
        h, c = carry
        gates = conv_layer(self, 4 * self.features, 5, "gates")
        joint = jnp.concatenate([x, h.astype(x.dtype)], axis=-1)
        i, f, o, g = jnp.split(gates(joint), 4, axis=-1)
        c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
        return nn.sigmoid(o) * jnp.tanh(c), c


class RecurrentMaps(nn.Module):
    """Maps u + u a, where a comes from the features and u from an LSTM at half the resolution.

    Attributes:
      features: Number of maps, and channels of the state.
      reflect: Whether the convolution of the features has reflect padding and no bias. Otherwise it
        has zero padding and a bias.
      image_statistics: See `BatchNorm`.
      dtype, precision: See `ConvLSTM`.
    """

    features: int
    reflect: bool = False
    image_statistics: bool = False
    dtype: str = "float32"
    precision: str = "highest"

    def setup(self):
        padding = "REFLECT" if self.reflect else "SAME"
        self.conv = conv_layer(self, self.features, 3, padding=padding, use_bias=not self.reflect)
        self.norm = BatchNorm(image_statistics=self.image_statistics, dtype=self.dtype)
        self.lstm = ConvLSTM(self.features, self.dtype, self.precision)

    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        carry: Carry,
        train: bool = False,
    ) -> tuple[Float[Array, "batch height width features"], Carry]:
        """Returns the maps and the new state, which has half the resolution."""
        attention = nn.relu(self.norm(self.conv(x), train))
        carry = self.lstm(nn.avg_pool(x, (2, 2), (2, 2)), carry)
        doubled = nearest_upsample(carry[0])
        return doubled * attention + doubled, carry

    def initial_carry(self, image: Float[Array, "batch rows columns channels"]) -> Carry:
        """Returns a zero state for an image of the first scale."""
        batch, height, width, _ = image.shape
        zeros = jnp.zeros((batch, height // 2, width // 2, self.features))
        return zeros, zeros


def enlarged_carry(carry: Carry) -> tuple[Array, Array]:
    """Returns the state enlarged for the next scale, at twice the resolution."""
    h, c = carry
    return enlarge(h, 2), enlarge(c, 2)
