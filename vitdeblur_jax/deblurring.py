"""The Python call that restores an image, or several, and gives back the type it was given."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Num

from vitdeblur_jax.checkpoints import Pretrained
from vitdeblur_jax.errors import UserError
from vitdeblur_jax.restoration import as_dtype, check_image, restore


def deblur(
    image: Num[np.ndarray | jax.Array, "*batch height width channels"],
    pretrained: Pretrained,
    *,
    stride: int | None = None,
    batch_size: int | None = None,
    on_windows: Callable[[int], None] = lambda done: None,
) -> Num[np.ndarray | jax.Array, "*batch height width 3"]:
    """Restores an image of any size, or a batch of equally large ones.

    Args:
      image: RGB, `H x W x 3` or `B x H x W x 3` (x 6 for a model with two views: left, then
        right); uint8, uint16, or floats in [0, 1]; NumPy or JAX.
      pretrained: what `load_pretrained` gave.
      stride: step between windows, pixels; by default the model's. Smaller is slower and smoother.
      batch_size: windows computed at once; by default 1 a CPU and 8 another device.
      on_windows: called with the number of windows just done.

    Returns:
      The restored image, of the same kind and dtype. Integers are rounded; floats are the
      network's own output, not clipped to [0, 1].

    Raises:
      UserError: the image's shape, dtype or values are not such.
    """
    array = np.asarray(image)
    images = array if array.ndim == 4 else array[None]
    if not len(images):
        raise UserError("the batch holds no image")
    for one in images:
        check_image(pretrained.model, one)
    restored = np.empty((*images.shape[:3], 3), array.dtype)
    for one, result in zip(images, restored, strict=True):
        done = 0
        for rows in restore(
            pretrained.model,
            pretrained.variables,
            one,
            stride=stride,
            batch_size=batch_size,
            on_windows=on_windows,
        ):
            result[done : done + len(rows)] = as_dtype(rows, array.dtype)
            done += len(rows)
    restored = restored if array.ndim == 4 else restored[0]
    return jnp.asarray(restored) if isinstance(image, jax.Array) else restored
