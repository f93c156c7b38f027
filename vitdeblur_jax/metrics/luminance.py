"""Luminance and chroma in YIQ, the color space of NTSC television."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from vitdeblur_jax.metrics.numerics import RGBImage

_LUMINANCE = (0.299, 0.587, 0.114)
_CHROMA = ((0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def luminance(image: RGBImage) -> Float[Array, "height width"]:
    """Returns Y = 0.299 R + 0.587 G + 0.114 B, in the range of `image`."""
    return sum(weight * image[..., i] for i, weight in enumerate(_LUMINANCE))


def chroma(image: RGBImage) -> Float[Array, "2 height width"]:
    """Returns I and Q, in the range of `image`; both are zero for gray."""
    return jnp.einsum("ic,hwc->ihw", jnp.array(_CHROMA, image.dtype), image)
