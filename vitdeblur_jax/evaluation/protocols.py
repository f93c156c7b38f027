"""Evaluation protocols: which values are read, measured and saved.

Those of the published systems are part of `vitdeblur_jax.evaluation.profiles`.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float, UInt

from vitdeblur_jax.inference.pixels import as_dtype
from vitdeblur_jax.metrics import DEFAULT
from vitdeblur_jax.utils.errors import UserError

_Image = Float[np.ndarray, "height width 3"]


class Values(NamedTuple):
    """The values of an image, and of its reference, from which a metric is computed.

    Attributes:
      of: Takes an image whose range is [0, 1], not clipped; returns the values.
      in_words: A description of the values; "" for the image clipped to [0, 1].
    """

    of: Callable[[_Image], _Image]
    in_words: str


def _to_8_bits(image):
    return np.round(image * np.float32(255)).astype(np.float64) / 255


CLIPPED = Values(lambda image: image.clip(0, 1), "")
NOT_CLIPPED = Values(lambda image: image, "values not clipped")
ROUNDED = Values(lambda image: _to_8_bits(image).clip(0, 1), "values rounded to 8 bits")
ROUNDED_NOT_CLIPPED = Values(_to_8_bits, "values rounded to 8 bits, not clipped")
ROUNDED_BGR = Values(
    lambda image: _to_8_bits(image)[..., ::-1],
    "values rounded to 8 bits, not clipped, channels in BGR order",
)
CLIPPED_BGR = Values(lambda image: image.clip(0, 1)[..., ::-1], "channels in BGR order")
# The metric maps [0, 1] to [-1, 1] itself.
NOT_SCALED = Values(lambda image: (image + 1) / 2, "values not clipped, not scaled to [-1, 1]")


class Protocol(NamedTuple):
    """How images are read, measured and saved.

    Attributes:
      one_view: Bits that 16-bit files of one view are read with; the first is the default. 16 takes
        8-bit files as they are.
      two_views: The same for two views.
      metrics: Names of the metrics.
      values: What the metrics are computed of.
      values_of: Pairs of a metric and its values, where they differ.
      truncates: Whether saved values are rounded down instead of to the nearest.
      network: The configuration that computes as the published evaluation does, if others of the
        network don't: batch norm uses the statistics of the image.
    """

    one_view: tuple[int, ...] = (8,)
    two_views: tuple[int, ...] = (8,)
    metrics: tuple[str, ...] = DEFAULT
    values: Values = CLIPPED
    values_of: tuple[tuple[str, Values], ...] = ()
    truncates: bool = False
    network: str = ""

    def values_for(self, metric: str) -> Values:
        """Returns the values that a metric is computed of."""
        return dict(self.values_of).get(metric, self.values)

    def bits(self, views: int) -> tuple[int, ...]:
        """Returns the bits that may be read of this number of views."""
        return self.one_view if views == 1 else self.two_views

    def saved(self, image: _Image, dtype: DTypeLike) -> UInt[np.ndarray, "height width 3"]:
        """Returns the pixels of the saved file."""
        if self.truncates:
            return (image.clip(0, 1) * np.float32(np.iinfo(dtype).max)).astype(dtype)
        return as_dtype(image, dtype)

    def check_network(self, system: str, network: nn.Module) -> None:
        """Raises `UserError` if the network uses running statistics where the image's are needed.

        Args:
          system: Name of the protocol's system, for the message.
          network: The network.
        """
        if self.network and getattr(network, "image_statistics", True) is False:
            raise UserError(
                f"the profile {system} normalizes with the statistics of each image, and this "
                f"network with running ones; add --config.network={self.network}"
            )


UNIFORM = Protocol(one_view=(8, 16), two_views=(8, 16))
