"""Restores an image in tiles with a halo, or whole.

This file is copied into exported models, which do not have this package. So it uses only JAX and
NumPy, has no jaxtyping annotations, and takes the network as a function. `tiling` has the
attributes of `HaloTiles` or `WholeImage` of `vitdeblur_jax.models.tilings`.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from .strips import (
    FLOAT_OUTPUT,
    Output,
    cut,
    extended_image,
    finished,
    in_batches,
    on_host,
    place,
    window_starts,
    zeros,
)


class Span(NamedTuple):
    """The extent of a tile along one axis, in pixels from the image's edge.

    Attributes:
      start: The first pixel of the tile.
      kept_from: The first pixel of the part that is kept.
      kept_to: The end of the part that is kept.
    """

    start: int
    kept_from: int
    kept_to: int


def tile_rows(
    tiling,
    image: np.ndarray,
    restore_tiles: Callable[[jax.Array], jax.Array],
    *,
    batch_size: int,
    output: Output = FLOAT_OUTPUT,
    on_tiles: Callable[[int], None] = lambda done: None,
) -> Iterator[np.ndarray]:
    """Restores an image from top to bottom.

    All tiles of an image have the same shape. Tiles at the image's edges start or end there, so the
    network pads them as it pads the whole image.

    Args:
      tiling: The tiling of the network.
      image: `(height, width, 3 * views)`; `image_fault` returns None for it.
      restore_tiles: Maps tiles `(batch_size, tile_height, tile_width, 3 * views)`, float32, to
        `(batch_size, tile_height, tile_width, 3)`. It may return before they are computed.
      batch_size: Tiles per batch.
      output: The dtype of the rows, and the weight of the restored image in them.
      on_tiles: Called after each batch with its number of tiles.

    Yields:
      Blocks of rows, `(rows, width, 3)`.

    Raises:
      NonFiniteError: The output has values that are not finite.
    """
    height, width = image.shape[:2]
    multiple = tiling.multiple
    source = extended_image(image, 0, whole_side(height, multiple), whole_side(width, multiple))
    rows, tile_height = spans(tiling, len(source.rows))
    columns, tile_width = spans(tiling, len(source.columns))

    def tiles():
        for row in rows:
            strip = source.strip(row.start, tile_height)
            for column in columns:
                yield cut(strip, column.start, tile_width)

    def restored_strips():
        restored = in_batches(restore_tiles, tiles(), batch_size, on_tiles)
        for row in rows:
            joined = zeros(tile_height, source.bucket, 3)
            for start, kept_from, kept_to in columns:
                joined = place(joined, *next(restored), start, kept_from - start, kept_to - start)
            given = None if output.strength == 1 else source.strip(row.start, tile_height)
            yield finished(joined, given, 0, output)

    for row, strip in zip(rows, on_host(restored_strips()), strict=True):
        end = max(min(row.kept_to, height) - row.start, 0)  # a tile may lie below the image
        wanted = strip[row.kept_from - row.start : end, :width]
        if len(wanted):
            yield wanted


def spans(tiling, length: int) -> tuple[list[Span], int]:
    """Returns the tiles along an axis, and their size in pixels.

    Args:
      tiling: The tiling of the network.
      length: Length of the axis in pixels, a multiple of `tiling.multiple`.
    """
    if not hasattr(tiling, "halo"):
        return [Span(0, 0, length)], length
    tile, halo = (_rounded(side, tiling.multiple) for side in (tiling.tile, tiling.halo))
    size = min(length, tile + 2 * halo)
    starts = window_starts(length, size, tile)
    ends = [start + size - halo for start in starts[:-1]] + [length]
    return [
        Span(start, kept_from, kept_to)
        for start, kept_from, kept_to in zip(starts, [0, *ends[:-1]], ends, strict=True)
    ], size


def count_tiles(tiling, height: int, width: int) -> int:
    """Returns the number of tiles of an image of `height` x `width` pixels."""
    rows, columns = (
        spans(tiling, whole_side(length, tiling.multiple))[0] for length in (height, width)
    )
    return len(rows) * len(columns)


def whole_side(length, multiple):
    """Returns the side that an image is extended to, in pixels.

    Two multiples or more, because padding by reflection inside a network needs two pixels, also
    where it has only one for each multiple.
    """
    return max(2 * multiple, _rounded(length, multiple))


def _rounded(length, multiple):
    return -(-length // multiple) * multiple
