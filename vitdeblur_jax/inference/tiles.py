"""The arithmetic of tiles with a halo, and of whole images.

What the network computes comes as a function. NumPy alone: this file is also copied beside exported
models, where the rest of the package is absent. For the same reason shapes stand in the docstrings.
`tiling` has the fields of `HaloTiles` or of `WholeImage` in `vitdeblur_jax.models.tilings`.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .pixels import as_float, extend_by_reflection


class Span(NamedTuple):
    """A tile along one axis, pixels.

    Attributes:
      start: where the tile begins.
      kept_from, kept_to: what is kept of it; both count from the image's edge.
    """

    start: int
    kept_from: int
    kept_to: int


def tile_rows(
    tiling,
    image: np.ndarray,
    restore_tiles: Callable[[np.ndarray], ArrayLike],
    *,
    batch_size: int,
    on_tiles: Callable[[int], None] = lambda done: None,
) -> Iterator[np.ndarray]:
    """Returns an iterator over a restored image from top to bottom.

    All tiles of an image have one shape, and those at its edges begin there, so that the network
    pads them as it pads the whole image.

    Args:
      tiling: of the network.
      image: `(height, width, 3 * views)`, without an `image_fault`.
      restore_tiles: from `(batch_size, tile_height, tile_width, 3 * views)`, float32, to
        `(batch_size, tile_height, tile_width, 3)`. It may return before they are computed.
      batch_size: tiles computed at once.
      on_tiles: called with the number of tiles just done.

    Yields:
      `(rows, width, 3)`, float32, not clipped; together as high as the image.
    """
    height, width = image.shape[:2]
    multiple = tiling.multiple
    padded = extend_by_reflection(image, _rounded(height, multiple), _rounded(width, multiple))
    rows, tile_height = spans(tiling, padded.shape[0])
    columns, tile_width = spans(tiling, padded.shape[1])
    for row in rows:
        strip = np.empty((row.kept_to - row.kept_from, padded.shape[1], 3), np.float32)
        tiles = _restored(
            restore_tiles,
            [
                padded[row.start : row.start + tile_height, span.start : span.start + tile_width]
                for span in columns
            ],
            batch_size,
            on_tiles,
        )
        inside = slice(row.kept_from - row.start, row.kept_to - row.start)
        for span, tile in zip(columns, tiles, strict=True):
            kept = slice(span.kept_from - span.start, span.kept_to - span.start)
            strip[:, span.kept_from : span.kept_to] = tile[inside, kept]
        wanted = strip[: max(0, height - row.kept_from), :width]
        if len(wanted):
            yield wanted


def spans(tiling, length: int) -> tuple[list[Span], int]:
    """Returns the tiles along an axis of `length` pixels, and their size.

    Args:
      tiling: of the network.
      length: a multiple of `tiling.multiple`.
    """
    if not hasattr(tiling, "halo"):
        return [Span(0, 0, length)], length
    tile, halo = (_rounded(side, tiling.multiple) for side in (tiling.tile, tiling.halo))
    size = min(length, tile + 2 * halo)
    starts = [*range(0, length - size, tile), length - size]
    ends = [start + size - halo for start in starts[:-1]] + [length]
    return [
        Span(start, kept_from, kept_to)
        for start, kept_from, kept_to in zip(starts, [0, *ends[:-1]], ends, strict=True)
    ], size


def count_tiles(tiling, height: int, width: int) -> int:
    """Returns how many tiles an image of that size is cut into."""
    rows, columns = (
        spans(tiling, _rounded(length, tiling.multiple))[0] for length in (height, width)
    )
    return len(rows) * len(columns)


def _rounded(length, multiple):
    return -(-length // multiple) * multiple


def _restored(restore_tiles, tiles, batch_size, on_tiles):
    """Yields the restored tiles; the next batch is under way while a batch is handed out."""
    under_way = None
    for first in range(0, len(tiles), batch_size):
        batch = tiles[first : first + batch_size]
        filled = batch + [batch[-1]] * (batch_size - len(batch))  # one shape: one compilation
        restored = restore_tiles(np.stack([as_float(tile) for tile in filled]))
        if under_way is not None:
            yield from _hand_out(*under_way, on_tiles)
        under_way = restored, len(batch)
    yield from _hand_out(*under_way, on_tiles)


def _hand_out(restored, count, on_tiles):
    arrived = np.asarray(restored)[:count]
    on_tiles(count)
    yield from arrived
