"""Which tiling restores an image, and checks and notes about it."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitdeblur_jax.inference.tiles import count_tiles as count_halo_tiles
from vitdeblur_jax.inference.tiles import whole_side
from vitdeblur_jax.inference.windows import count_windows
from vitdeblur_jax.models.network import (
    abstract_variables,
    restored_images,
    tiling_of,
    views_of,
)
from vitdeblur_jax.models.tilings import (
    HaloTiles,
    Tiling,
    WholeImage,
    Windows,
    check_stride,
    stride_note,
)
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.memory import free_bytes
from vitdeblur_jax.utils.output import tell

# Pixels that are restored as a whole without asking for the memory, which compiles the network.
_SURELY_FITS = 2**20


def tiling_for(network: nn.Module, height: int, width: int, tile: int | None = None) -> Tiling:
    """Returns the tiling for an image.

    A network that takes the whole image is restored in tiles if `tile` is given, or, after a note,
    if the image needs more memory than is free. The result is then an approximation.

    Args:
      network: The network.
      height: Height of the image, in pixels.
      width: Width of the image, in pixels.
      tile: Minimum side of the kept part of a tile, in pixels; None for the network's.
    """
    tiling = tiling_of(network)
    if isinstance(tiling, WholeImage):
        tile = tile or _tile_that_fits(network, height, width)
        return tiling if tile is None else HaloTiles(multiple=tiling.multiple, tile=tile)
    return tiling if tile is None else tiling._replace(tile=tile)


@functools.lru_cache(maxsize=64)
def _tile_that_fits(network, height, width):
    """Returns None if there is memory for the whole image, else the side of tiles."""
    if height * width <= _SURELY_FITS:
        return None
    free = free_bytes(jax.local_devices()[0])
    if free is None or free >= (needed := _needed_bytes(network, height, width)):
        return None
    tiling = HaloTiles()
    tell(
        f"note: {type(network).__name__} takes the whole image; {width} x {height} pixels need "
        f"{needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free. It is restored approximately, "
        f"in tiles of {tiling.tile} pixels with a halo of {tiling.halo}"
    )
    return tiling.tile


def _needed_bytes(network, height, width):
    sides = (whole_side(length, tiling_of(network).multiple) for length in (height, width))
    image = jax.ShapeDtypeStruct((1, *sides, 3 * views_of(network)), jnp.float32)
    whole = jax.jit(restored_images, static_argnums=0)
    compiled = whole.lower(network, abstract_variables(network), image).compile()
    sizes = compiled.memory_analysis()
    return sizes.temp_size_in_bytes + sizes.output_size_in_bytes


def count_tiles(
    network: nn.Module,
    height: int,
    width: int,
    stride: int | None = None,
    tile: int | None = None,
) -> int:
    """Returns the number of windows or tiles of an image.

    Args:
      network: The network.
      height: Height of the image, in pixels.
      width: Width of the image, in pixels.
      stride: Step between windows, in pixels; None for the network's.
      tile: Minimum side of the kept part of a tile, in pixels; None for the network's.
    """
    tiling = tiling_for(network, height, width, tile)
    if isinstance(tiling, Windows):
        return count_windows(tiling, height, width, stride)
    return count_halo_tiles(tiling, height, width)


def check_options(
    network: nn.Module, stride: int | None, batch_size: int | None, tile: int | None = None
) -> None:
    """Raises `UserError` if the network cannot use one of the options; None is valid."""
    tiling = tiling_of(network)
    if tile is not None and isinstance(tiling, Windows):
        raise UserError(
            f"tile is {tile}, but {type(network).__name__} works in overlapping windows of "
            f"{tiling.size} pixels; leave the tile out"
        )
    if tile is not None and tile < 1:
        raise UserError(f"tile is {tile}; it must be 1 or more")
    if stride is not None:
        if not isinstance(tiling, Windows):
            raise UserError(
                f"stride is {stride}, but {type(network).__name__} does not work in overlapping "
                "windows; leave the stride out"
            )
        check_stride(tiling, stride)
    if batch_size is not None and batch_size < 1:
        raise UserError(f"the batch size is {batch_size}; it must be 1 or more")


def tell_of_tiling(network: nn.Module, stride: int | None, tile: int | None = None) -> None:
    """Prints a note if the tiling may be visible in the results.

    Args:
      network: The network.
      stride: Step between windows, in pixels; None for the network's.
      tile: Minimum side of the kept part of a tile, in pixels; None for the network's.
    """
    tiling = tiling_of(network)
    if tile is not None and isinstance(tiling, WholeImage):
        tell(
            f"note: {type(network).__name__} takes the whole image; tiles of {tile} pixels with a "
            f"halo of {HaloTiles().halo} restore it approximately"
        )
    if isinstance(tiling, Windows):
        note = stride_note(tiling, stride or tiling.stride)
        if note is not None:
            tell(f"note: {note}")
    elif getattr(network, "tiling", None) is None and isinstance(tiling, HaloTiles):
        side = (tile or tiling.tile) + 2 * tiling.halo
        tell(
            f"note: {type(network).__name__} has no attribute 'tiling'; images larger than "
            f"{side} pixels are restored in tiles with a halo of {tiling.halo} pixels, which is "
            "exact only if the receptive field is not larger"
        )
