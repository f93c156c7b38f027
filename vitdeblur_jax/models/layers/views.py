"""The views of an image: one, or the left and right view of a dual-pixel sensor."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def views_and_combined(
    image: Float[Array, "batch height width channels"],
) -> tuple[Float[Array, "batch height width views"], Float[Array, "batch height width 3"]]:
    """Returns the views, and the combined image of the sensor.

    Args:
      image: One view; or two views (left, right), whose mean replaces the combined image; or three
        images: left, right and combined.
    """
    match image.shape[-1] // 3:
        case 1:
            return image, image
        case 2:
            return image, jnp.mean(jnp.stack(jnp.split(image, 2, axis=-1)), axis=0)
        case _:
            return image[..., :6], image[..., 6:]


def mean_of_views(
    image: Float[Array | np.ndarray, "*batch height width channels"],
) -> Float[Array | np.ndarray, "*batch height width 3"]:
    """Returns the mean of an image's views; an image with one view is unchanged."""
    return image.reshape(*image.shape[:-1], -1, 3).mean(axis=-2)
