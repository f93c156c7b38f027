"""The Python call that restores an image, or several, and gives back the type it was given."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Num

from vitdeblur_jax.checkpoints.pretrained import Pretrained
from vitdeblur_jax.inference.pixels import as_dtype, as_float
from vitdeblur_jax.inference.restoration import check_image, restore
from vitdeblur_jax.inference.self_ensemble import Ensemble, self_ensemble
from vitdeblur_jax.models.layers.views import mean_of_views
from vitdeblur_jax.models.network import views_of
from vitdeblur_jax.utils.errors import UserError


def deblur(
    image: Num[np.ndarray | jax.Array, "*batch height width channels"],
    pretrained: Pretrained,
    *,
    strength: float = 1.0,
    ensemble: bool = False,
    stride: int | None = None,
    batch_size: int | None = None,
    on_tiles: Callable[[int], None] = lambda done: None,
) -> Num[np.ndarray | jax.Array, "*batch height width 3"]:
    """Restores an image of any size, or a batch of equally large ones.

    Args:
      image: RGB, `H x W x 3` or `B x H x W x 3` (x 6 for a network with two views: left, then
        right); uint8, uint16, or floats in [0, 1]; NumPy or JAX.
      pretrained: what `load_pretrained` gave.
      strength: from 0 to 1: how much of the restoration is taken, the rest is the image (the mean
        of its views).
      ensemble: the mean over the image's eight flips and turns, for eight times the work; see
        `vitdeblur_jax.inference.self_ensemble`.
      stride: step between windows, pixels; by default the network's. Smaller is slower and
        smoother. Only for networks that work in overlapping windows.
      batch_size: windows or tiles computed at once; by default 1 a CPU and 8 another device.
      on_tiles: called with the number of windows or tiles just done.

    Returns:
      The restored image, of the same kind and dtype. Integers are rounded; floats are the
      network's own output, not clipped to [0, 1].

    Raises:
      UserError: the image's shape, dtype or values, or the strength, are not such; or it is called
        inside of `jax.jit`, `jax.grad` or `jax.vmap`.
    """
    _check_not_traced(image, pretrained.variables)
    array = np.asarray(image)
    images = array if array.ndim == 4 else array[None]
    if not len(images):
        raise UserError("the batch holds no image")
    check_strength(strength)
    for one in images:
        check_image(pretrained.model, one)
    options = {"stride": stride, "batch_size": batch_size, "on_tiles": on_tiles}
    restored = np.empty((*images.shape[:3], 3), array.dtype)
    for one, result in zip(images, restored, strict=True):
        if ensemble:
            mean = restored_ensemble(one, pretrained, **options).mean
            result[:] = as_dtype(blend(one, mean, strength), array.dtype)
            continue
        done = 0
        for rows in restore(pretrained.model, pretrained.variables, one, **options):
            given = one[done : done + len(rows)]
            result[done : done + len(rows)] = as_dtype(blend(given, rows, strength), array.dtype)
            done += len(rows)
    restored = restored if array.ndim == 4 else restored[0]
    return jnp.asarray(restored) if isinstance(image, jax.Array) else restored


def restored_ensemble(
    image: Num[np.ndarray, "height width channels"], pretrained: Pretrained, **options
) -> Ensemble:
    """Restores an image in each of its flips and turns; float32, not clipped.

    Args:
      image: as `deblur` takes it, one.
      pretrained: what `load_pretrained` gave.
      **options: stride, batch_size and on_tiles, as `deblur` takes them.
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
    """Returns `strength` of the restoration and the rest of the image, the mean of its views."""
    if strength == 1:
        return restored
    given = mean_of_views(as_float(image))
    return given + np.float32(strength) * (restored - given)


def _check_not_traced(*trees):
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees)):
        raise UserError(
            "deblur cannot be traced (jax.jit, grad, vmap): it cuts the image into tiles on the "
            "host. Call it outside, its inner functions are compiled already; or trace "
            "pretrained.model.apply(variables, images), which takes batches of floats"
        )


def check_strength(strength: float) -> None:
    """Raises `UserError` unless it lies between 0 and 1."""
    if not 0 <= strength <= 1:
        raise UserError(f"the strength is {strength}; it lies between 0 and 1")
