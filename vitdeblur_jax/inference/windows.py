"""Restores an image in overlapping windows: averages their feature maps and applies the head.

This file is copied into exported models, which do not have this package. So it uses only NumPy, has
no jaxtyping annotations, and takes the network as two functions. `tiling` has the attributes of
`Windows` of `vitdeblur_jax.models.tilings`.

Row y of the feature map is row y + trim of the image; columns likewise.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .pixels import as_float, extend_by_reflection, in_batches


def window_rows(
    tiling,
    image: np.ndarray,
    window_features: Callable[[np.ndarray], ArrayLike],
    head_tile: Callable[..., ArrayLike],
    *,
    stride: int,
    batch_size: int,
    on_tiles: Callable[[int], None] = lambda done: None,
) -> Iterator[np.ndarray]:
    """Restores an image from top to bottom.

    Args:
      tiling: The tiling of the network.
      image: `(height, width, 3 * views)`; `image_fault` returns None for it.
      window_features: Maps windows `(batch_size, size, size, 3 * views)`, float32, to their feature
        maps `(batch_size, side, side, features)`, where `side = size - 2 * trim`. It may return
        before they are computed.
      head_tile: Maps `(square, features, rows, columns)` to a tile of the restored image. `square`
        is a window-sized square of the image, and `features` is the averaged map over it. `rows`
        and `columns` are the indices into the map for each padded row and column of the tile; they
        implement the reflection at the image's borders.
      stride: Step between windows, in pixels; at most `side`.
      batch_size: Windows per batch.
      on_tiles: Called after each batch with its number of windows.

    Yields:
      Blocks of rows, `(rows, width, 3)`, float32, not clipped.
    """
    padded = extend_by_reflection(_with_margin(image, tiling.margin), tiling.size, tiling.size)
    layout = _layout(tiling, *padded.shape[:2], stride)
    corners = itertools.product(layout.rows, layout.columns)
    windows = (_square(padded, top, left, layout.window) for top, left in corners)
    maps = in_batches(window_features, windows, batch_size, on_tiles)
    rows = _image_rows(head_tile, padded, layout, _blend(layout, maps))
    return _cropped(rows, tiling.margin, *image.shape[:2])


def count_windows(tiling, height: int, width: int, stride: int | None = None) -> int:
    """Returns the number of windows of an image.

    Args:
      tiling: The tiling of the network.
      height: Height of the image, in pixels.
      width: Width of the image, in pixels.
      stride: Step between windows, in pixels; None for the tiling's.
    """
    side, stride = tiling.size, stride or tiling.stride
    rows, columns = (
        window_starts(max(length + 2 * tiling.margin, side), side, stride)
        for length in (height, width)
    )
    return len(rows) * len(columns)


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Returns the starts of the windows along an axis; the last window ends at the edge."""
    return [*range(0, length - window, stride), length - window]


def _with_margin(image, margin):
    if not margin:
        return image
    return np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")


def _cropped(image_rows, margin, height, width):
    done = -margin
    for rows in image_rows:
        inside = slice(max(0, -done), max(0, height - done))
        wanted = rows[inside, margin : margin + width]
        done += len(rows)
        if len(wanted):
            yield wanted


class _Layout(NamedTuple):
    """Positions of windows and head tiles in an image, in pixels."""

    height: int
    width: int
    window: int
    side: int  # of a window's feature map; a head tile reads a square of this side
    tile: int  # side of a head tile
    padding: int  # by reflection, for the head
    rows: list[int]
    columns: list[int]

    @property
    def map_height(self) -> int:
        return self.height - self.window + self.side

    @property
    def map_width(self) -> int:
        return self.width - self.window + self.side


def _layout(tiling, height, width, stride) -> _Layout:
    side = tiling.size - 2 * tiling.trim
    return _Layout(
        height=height,
        width=width,
        window=tiling.size,
        side=side,
        tile=side - 2 * tiling.reach,
        padding=tiling.trim + tiling.reach,
        rows=window_starts(height, tiling.size, stride),
        columns=window_starts(width, tiling.size, stride),
    )


def _square(image, top, left, side):
    return image[top : top + side, left : left + side]


def _blend(layout: _Layout, window_maps: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yields finished rows of the averaged feature map, `(rows, map_width, features)`."""
    row_counts = _coverage(layout.rows, layout.side, layout.map_height)
    column_counts = _coverage(layout.columns, layout.side, layout.map_width)
    total = None
    for top, following in zip(layout.rows, [*layout.rows[1:], layout.map_height], strict=True):
        for left in layout.columns:
            window_map = next(window_maps)
            if total is None:
                total = np.zeros((layout.side, layout.map_width, window_map.shape[-1]), np.float32)
            total[:, left : left + layout.side] += window_map
        finished = following - top
        counts = row_counts[top:following, None] * column_counts
        yield total[:finished] / counts[:, :, None]
        total[:-finished] = total[finished:]
        total[-finished:] = 0


def _coverage(starts, side, length) -> np.ndarray:
    counts = np.zeros(length, np.float32)
    for start in starts:
        counts[start : start + side] += 1
    return counts


def _image_rows(head_tile, image, layout: _Layout, map_rows: Iterable[np.ndarray]):
    """Yields the restored rows, one row of head tiles at a time."""
    map_rows = iter(map_rows)
    held, held_from, done = next(map_rows), 0, 0
    for top in window_starts(layout.height, layout.tile, layout.tile):
        rows, map_top = _tile_rows(layout, top, layout.map_height)
        held, held_from = held[map_top - held_from :], map_top
        while len(held) < layout.side:
            held = np.concatenate([held, next(map_rows)])
        strip = np.empty((layout.tile, layout.width, 3), np.float32)
        tiles = []
        for left in window_starts(layout.width, layout.tile, layout.tile):
            columns, map_left = _tile_rows(layout, left, layout.map_width)
            square = as_float(_square(image, map_top, map_left, layout.window))
            features = _square(held, 0, map_left, layout.side)
            tiles.append((left, head_tile(square, features, rows, columns)))
        for left, tile in tiles:
            strip[:, left : left + layout.tile] = tile
        yield strip[done - top :]
        done = top + layout.tile


def _tile_rows(layout, start, map_length):
    """Returns the rows of its square of the map that a head tile reads, and where that begins."""
    part = min(max(start - layout.padding, 0), map_length - layout.side)
    rows = np.abs(np.arange(layout.side) + start - layout.padding)
    rows = np.where(rows < map_length, rows, 2 * (map_length - 1) - rows)
    return (rows - part).astype(np.int32), part
