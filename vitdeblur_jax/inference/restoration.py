"""Restores a whole image of any size with the tiling of the network.

`windows.py` averages the feature maps of overlapping windows, and a head makes the image from the
map. `tiles.py` restores tiles with a halo, or the whole image at once. Both work from top to
bottom, so memory does not grow with the image's height. All windows, head tiles or tiles of an
image have the same shape, so the network is compiled once or twice.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Num

from vitdeblur_jax.distributed.sharding import batch_sharded, local_mesh, make_mesh, replicated
from vitdeblur_jax.inference.chosen_tiling import check_options, tiling_for
from vitdeblur_jax.inference.pixels import image_fault
from vitdeblur_jax.inference.strips import FLOAT_OUTPUT, NonFiniteError, Output
from vitdeblur_jax.inference.tiles import count_tiles as count_halo_tiles
from vitdeblur_jax.inference.tiles import tile_rows
from vitdeblur_jax.inference.windows import window_rows
from vitdeblur_jax.models.network import check_hashable, restored_images, tiling_of, views_of
from vitdeblur_jax.models.tilings import WholeImage, Windows
from vitdeblur_jax.utils.errors import UserError, one_line

Images = Float[ArrayLike, "batch height width channels"]


@functools.partial(jax.jit, static_argnames="network")
def restored_tiles(
    network: nn.Module, variables: dict, tiles: Images
) -> Float[Array, "batch height width 3"]:
    """Returns the restored tiles or whole images, float32."""
    restored = restored_images(network, variables, tiles)
    shape, wanted = getattr(restored, "shape", type(restored).__name__), (*tiles.shape[:3], 3)
    if shape != wanted:
        raise UserError(
            f"{type(network).__name__} returns {shape} for images of {tiles.shape}; it must return "
            f"{wanted}"
        )
    return restored.astype(jnp.float32)


@functools.partial(jax.jit, static_argnames="network")
def window_features(
    network: nn.Module, variables: dict, windows: Float[ArrayLike, "batch window window channels"]
) -> Float[Array, "batch side side features"]:
    """Returns the feature maps of a batch of windows, float32."""
    return network.apply(variables, windows, method="features").astype(jnp.float32)


@functools.partial(jax.jit, static_argnames="network")
def head_tile(
    network: nn.Module,
    variables: dict,
    image: Float[ArrayLike, "window window channels"],
    features: Float[ArrayLike, "side side features"],
    rows: Int[ArrayLike, " padded"],
    columns: Int[ArrayLike, " padded"],
) -> Float[Array, "tile tile 3"]:
    """Returns a tile of the restored image; see the network's method of that name."""
    return network.apply(variables, image, features, rows, columns, method="head_tile")


def restore(
    network: nn.Module,
    variables: dict,
    image: np.ndarray,
    *,
    stride: int | None = None,
    tile: int | None = None,
    batch_size: int | None = None,
    output: Output = FLOAT_OUTPUT,
    on_tiles: Callable[[int], None] = lambda done: None,
) -> Iterator[Num[np.ndarray, "rows width 3"]]:
    """Restores an image and returns an iterator over its rows from top to bottom.

    The image is extended by reflection to the size that the tiling needs; the result is cropped
    back. Strips of the image are cut, restored and joined on the devices; only finished rows come
    back, while the next ones are computed.

    Args:
      network: The network.
      variables: Its variables.
      image: `(height, width, 3 * views)` RGB; uint8, uint16 or float in [0, 1].
      stride: Step between windows, in pixels; None for the network's. Only for networks that work
        in overlapping windows.
      tile: Minimum side of the kept part of a tile, in pixels; see `tiling_for`. Not for networks
        that work in overlapping windows.
      batch_size: Windows or tiles per batch, rounded up to a multiple of the number of local
        devices; None for `usual_batch_size` on each of them.
      output: The dtype of the rows, and the weight of the restored image in them.
      on_tiles: Called after each batch with its number of windows or tiles.

    Returns:
      An iterator over blocks of rows.

    Raises:
      UserError: The image or an option is invalid. The iterator raises it if the network's output
        is not finite.
    """
    check_image(network, image)
    check_options(network, stride, batch_size, tile)
    tiling, mesh = tiling_for(network, *image.shape[:2], tile), local_mesh()
    most = None if isinstance(tiling, Windows) else count_halo_tiles(tiling, *image.shape[:2])
    first = jax.local_devices()[0]
    if most is not None and most < mesh.size:  # a batch is not filled with copies of a tile
        mesh = make_mesh(1, 1, [first])
    placed = jax.device_put(variables, replicated(mesh))
    batch_size = _whole_batch(batch_size, network, mesh, most)
    settings = {"batch_size": batch_size, "output": output, "on_tiles": on_tiles}

    def on_all_devices(function, batch):
        if mesh.size == 1:
            return function(network, placed, batch)
        results = function(network, placed, jax.device_put(batch, batch_sharded(mesh)))
        return jax.device_put(results, first)

    if not isinstance(tiling, Windows):
        restore_tiles = functools.partial(on_all_devices, restored_tiles)
        return _told(network, tile_rows(tiling, image, restore_tiles, **settings))
    # An image has few head tiles, so one device computes all of them.
    on_first = placed if mesh.size == 1 else jax.device_put(variables, first)
    rows = window_rows(
        tiling,
        image,
        functools.partial(on_all_devices, window_features),
        functools.partial(head_tile, network, on_first),
        stride=tiling.stride if stride is None else stride,
        **settings,
    )
    return _told(network, rows)


def _told(network, image_rows):
    """Yields the rows; errors of the network become a `UserError`."""
    try:
        yield from image_rows
    except NonFiniteError as error:
        raise UserError(
            f"{error}: the checkpoint may be damaged, or it may need dtype float32"
        ) from error
    except FlaxError as error:
        name = type(network).__name__
        raise UserError(f"{name} cannot be applied to images ({one_line(error)})") from error


def usual_batch_size(network: nn.Module, device: Any) -> int:
    """Returns the default number of windows or tiles on a JAX device: 1 on a CPU, else 8.

    It is 1, too, for tiles of a network that takes the whole image: they are to save memory.
    """
    is_one = device.platform == "cpu" or isinstance(tiling_of(network), WholeImage)
    return 1 if is_one else 8


def _whole_batch(batch_size, network, mesh, most):
    devices = mesh.devices.flat
    if batch_size is None:
        batch_size = sum(usual_batch_size(network, device) for device in devices)
    if most is not None:
        batch_size = min(batch_size, most)
    return -(-batch_size // len(devices)) * len(devices)


def check_image(network: nn.Module, image: np.ndarray) -> None:
    """Raises `UserError` if the network cannot restore the image."""
    check_hashable(network)
    fault = image_fault(views_of(network), image)
    if fault is not None:
        raise UserError(fault)
