"""Images warped by a disparity."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def shifted_columns(
    image: Float[Array, "batch height width channels"],
    disparity: Float[Array, "batch height width 1"],
) -> Float[Array, "batch height width channels"]:
    """Returns the image sampled `disparity` pixels to the right of each pixel.

    Samples between pixels are interpolated linearly; the image is zero outside.
    """
    width = image.shape[2]
    place = jnp.arange(width) + disparity[..., 0]
    left = jnp.floor(place)
    share = (place - left)[..., None]

    def pixels(column):
        inside = (column >= 0) & (column < width)
        index = jnp.clip(column, 0, width - 1).astype(jnp.int32)
        return jnp.where(inside[..., None], jnp.take_along_axis(image, index[..., None], 2), 0)

    return (1 - share) * pixels(left) + share * pixels(left + 1)
