"""Restores an image in overlapping windows: averages their feature maps and applies the head.

This file is copied into exported models, which do not have this package. So it uses only JAX and
NumPy, has no jaxtyping annotations, and takes the network as two functions. `tiling` has the
attributes of `Windows` of `vitdeblur_jax.models.tilings`.

Windows are cut, and their feature maps added up, on the device. It holds a strip of the sum, twice
as high as a window's map. Row y of the feature map is row y + trim of the image; columns likewise.
"""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .strips import (
    FLOAT_OUTPUT,
    ExtendedImage,
    Output,
    bucket_of,
    cut,
    extended_image,
    finished,
    in_batches,
    on_host,
    place,
    window_starts,
    zeros,
)


def window_rows(
    tiling,
    image: np.ndarray,
    window_features: Callable[[jax.Array], jax.Array],
    head_tile: Callable[..., jax.Array],
    *,
    stride: int,
    batch_size: int,
    output: Output = FLOAT_OUTPUT,
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
      output: The dtype of the rows, and the weight of the restored image in them.
      on_tiles: Called after each batch with its number of windows.

    Yields:
      Blocks of rows, `(rows, width, 3)`.

    Raises:
      NonFiniteError: The output has values that are not finite.
    """
    least, margin = tiling.size, tiling.margin
    source = extended_image(image, margin, least, least)
    layout = _layout(tiling, len(source.rows), len(source.columns), stride)
    maps = in_batches(window_features, _windows(layout, source), batch_size, on_tiles)
    strips = on_host(_restored_strips(layout, source, maps, head_tile, output))
    return _cropped(_new_rows(strips, layout), margin, *image.shape[:2])


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

    width: int
    window: int
    side: int  # of a window's feature map; a head tile reads a square of this side
    tile: int  # side of a head tile
    padding: int  # by reflection, for the head
    rows: list[int]  # starts of the windows
    columns: list[int]
    tops: list[int]  # starts of the head tiles
    lefts: list[int]
    row_counts: np.ndarray  # windows over each row of the map
    column_counts: np.ndarray

    @property
    def map_height(self) -> int:
        return len(self.row_counts)

    @property
    def map_width(self) -> int:
        return len(self.column_counts)


def _layout(tiling, height, width, stride) -> _Layout:
    side = tiling.size - 2 * tiling.trim
    tile = side - 2 * tiling.reach
    rows, columns = (window_starts(length, tiling.size, stride) for length in (height, width))
    return _Layout(
        width=width,
        window=tiling.size,
        side=side,
        tile=tile,
        padding=tiling.trim + tiling.reach,
        rows=rows,
        columns=columns,
        tops=window_starts(height, tile, tile),
        lefts=window_starts(width, tile, tile),
        row_counts=_coverage(rows, side),
        column_counts=_coverage(columns, side),
    )


def _windows(layout: _Layout, source: ExtendedImage) -> Iterator[jax.Array]:
    for top in layout.rows:
        strip = source.strip(top, layout.window)
        for left in layout.columns:
            yield cut(strip, left, layout.window)


class _HeadRow(NamedTuple):
    """A row of head tiles.

    Attributes:
      top: The first row of the image that the tiles restore.
      map_top: The first row of the map that they read, and of the image.
      map_rows: See `window_rows`.
    """

    top: int
    map_top: int
    map_rows: np.ndarray


def _restored_strips(layout, source, maps, head_tile, output):
    """Yields `finished` strips, one for each row of head tiles."""
    heads = [_HeadRow(top, *_part_of_map(layout, top, layout.map_height)) for top in layout.tops]
    total, total_from = None, 0
    for top, following in zip(layout.rows, [*layout.rows[1:], layout.map_height], strict=True):
        for left in layout.columns:
            results, index = next(maps)
            if total is None:
                width = bucket_of(layout.width) - layout.window + layout.side
                total = zeros(2 * layout.side, width, results.shape[-1])
            total = _add(total, results, index, top - total_from, left)
        while heads and heads[0].map_top + layout.side <= following:
            head = heads.pop(0)
            yield _restored_strip(layout, source, total, head, head_tile, output)
            if heads:
                total = _scrolled(total, heads[0].map_top - total_from)
                total_from = heads[0].map_top


def _restored_strip(layout, source, total, head, head_tile, output):
    strip = source.strip(head.map_top, layout.window)
    row_counts = layout.row_counts[head.map_top : head.map_top + layout.side]
    joined = zeros(layout.tile, source.bucket, 3)
    for left in layout.lefts:
        map_left, columns = _part_of_map(layout, left, layout.map_width)
        counts = row_counts[:, None] * layout.column_counts[map_left : map_left + layout.side]
        features = _averaged(total, counts, map_left)
        square = cut(strip, map_left, layout.window)
        tile = head_tile(square, features, head.map_rows, columns)
        joined = place(joined, tile[None], 0, left, 0, layout.tile)
    return finished(joined, strip, head.top - head.map_top, output)


def _new_rows(strips, layout):
    """Yields the rows of each strip that the one above does not have."""
    done = 0
    for top, strip in zip(layout.tops, strips, strict=True):
        yield strip[done - top :]
        done = top + layout.tile


def _part_of_map(layout, start, map_length):
    """Returns where the square of the map begins that a head tile reads, and its rows in it."""
    part = min(max(start - layout.padding, 0), map_length - layout.side)
    rows = np.abs(np.arange(layout.side) + start - layout.padding)
    rows = np.where(rows < map_length, rows, 2 * (map_length - 1) - rows)
    return part, (rows - part).astype(np.int32)


def _coverage(starts, side) -> np.ndarray:
    counts = np.zeros(starts[-1] + side, np.float32)
    for start in starts:
        counts[start : start + side] += 1
    return counts


@functools.partial(jax.jit, donate_argnames="total")
def _add(total, results, index, top, left):
    """Adds a window's map to a strip of the sum."""
    result = results[index]
    start = (top, left, 0)
    before = jax.lax.dynamic_slice(total, start, result.shape)
    return jax.lax.dynamic_update_slice(total, before + result, start)


@jax.jit
def _averaged(total, counts, left):
    """Returns a square of the averaged map, at the top of the strip."""
    side = counts.shape[0]
    return (
        jax.lax.dynamic_slice(total, (0, left, 0), (side, side, total.shape[-1]))
        / counts[..., None]
    )


@functools.partial(jax.jit, donate_argnames="total")
def _scrolled(total, rows):
    """Moves a strip of the sum down the image; new rows are 0."""
    is_old = jnp.arange(total.shape[0]) < total.shape[0] - rows
    return jnp.where(is_old[:, None, None], jnp.roll(total, -rows, axis=0), 0)
