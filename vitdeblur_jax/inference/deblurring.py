"""Restores arrays: `deblur`, for images of any size."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Num

from vitdeblur_jax.checkpoints.pretrained import Pretrained, check_pretrained
from vitdeblur_jax.inference.pixels import as_dtype, as_float, blended
from vitdeblur_jax.inference.restoration import check_image, restore
from vitdeblur_jax.inference.self_ensemble import Ensemble, self_ensemble
from vitdeblur_jax.inference.strips import Output
from vitdeblur_jax.models.network import views_of
from vitdeblur_jax.utils.errors import UserError


def deblur(
    image: Num[np.ndarray | jax.Array, "*batch height width channels"],
    pretrained: Pretrained,
    *,
    strength: float = 1.0,
    ensemble: bool = False,
    stride: int | None = None,
    tile: int | None = None,
    batch_size: int | None = None,
    on_tiles: Callable[[int], None] = lambda done: None,
) -> Num[np.ndarray | jax.Array, "*batch height width 3"]:
    """Restores an image of any size, or a batch of images of equal size.

    Args:
      image: RGB, `(height, width, 3)` or `(batch, height, width, 3)`; uint8, uint16, or floats in
        [0, 1]; NumPy or JAX. A network with two views takes six channels: left, then right.
      pretrained: The network and its variables, from `load_pretrained`.
      strength: Weight of the restored image, from 0 to 1. The rest is the input (the mean of its
        views).
      ensemble: Average over the eight flips and rotations of the image, at eight times the cost;
        see `vitdeblur_jax.inference.self_ensemble`.
      stride: Step between windows, in pixels; None for the network's. Smaller is slower and
        smoother. Only for networks that work in overlapping windows.
      tile: Minimum side of a tile without its halo, in pixels; None for the network's. Smaller
        needs less memory. A network that takes the whole image then restores approximately.
      batch_size: Windows or tiles per batch; None for 1 on a CPU and for a network that takes the
        whole image, else 8.
      on_tiles: Called after each batch with its number of windows or tiles.

    Returns:
      The restored image, of the array type and dtype of the input. Integers are rounded and
      clipped; floats are not clipped to [0, 1].

    Raises:
      UserError: The image or an option is invalid, or this is called inside `jax.jit`, `jax.grad`
        or `jax.vmap`.
    """
    check_pretrained(pretrained, "deblur(image, pretrained)")
    _check_not_traced(image, pretrained.variables)
    array = np.asarray(image)
    images = array if array.ndim == 4 else array[None]
    if not len(images):
        raise UserError("the batch has no images")
    check_strength(strength)
    for one in images:
        check_image(pretrained.model, one)
    options = {"stride": stride, "tile": tile, "batch_size": batch_size, "on_tiles": on_tiles}
    output = Output(array.dtype, strength)
    restored = np.empty((*images.shape[:3], 3), array.dtype)
    for one, result in zip(images, restored, strict=True):
        if ensemble:
            mean = restored_ensemble(one, pretrained, **options).mean
            result[:] = as_dtype(blend(one, mean, strength), array.dtype)
            continue
        done = 0
        for rows in restore(pretrained.model, pretrained.variables, one, output=output, **options):
            result[done : done + len(rows)] = rows
            done += len(rows)
    restored = restored if array.ndim == 4 else restored[0]
    return jnp.asarray(restored) if isinstance(image, jax.Array) else restored


def restored_ensemble(
    image: Num[np.ndarray, "height width channels"], pretrained: Pretrained, **options
) -> Ensemble:
    """Restores each flip and rotation of an image; returns float32, not clipped.

    Args:
      image: One image, as `deblur` takes it.
      pretrained: The network and its variables, from `load_pretrained`.
      **options: `stride`, `tile`, `batch_size` and `on_tiles` of `deblur`.
    """

    def restore_whole(turned):
        return np.concatenate(
            list(restore(pretrained.model, pretrained.variables, turned, **options))
        )

    return self_ensemble(restore_whole, image, views_of(pretrained.model))


def blend(
    image: Num[np.ndarray, "height width channels"],
    restored: Float[np.ndarray, "height width 3"],
    strength: float,
) -> Float[np.ndarray, "height width 3"]:
    """Returns `strength * restored + (1 - strength) * image`; of views, their mean."""
    if strength == 1:
        return restored
    return blended(as_float(image), restored, np.float32(strength))


def _check_not_traced(*trees):
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees)):
        raise UserError(
            "deblur cannot be traced (jax.jit, grad, vmap), because it cuts the image into strips "
            "on the host. Call it outside; its inner functions are already compiled. Or trace "
            "pretrained.model.apply(variables, images), which takes batches of floats"
        )


def check_strength(strength: float) -> None:
    """Raises `UserError` unless the strength is between 0 and 1."""
    if not 0 <= strength <= 1:
        raise UserError(f"strength is {strength}; it must be between 0 and 1")
