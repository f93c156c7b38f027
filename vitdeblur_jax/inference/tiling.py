"""The arithmetic of one whole image: windows, their blending, the image head's tiles.

What the network computes comes as two functions. NumPy alone: this file is also copied beside
exported models, where the rest of the package is absent. For the same reason shapes stand in the
docstrings, and what is wrong with an image is returned rather than raised.

`config` is the model, or anything else that has its configuration as attributes.

Coordinates: row y of the map is row y + (input_kernel - 1) / 2 of the image.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike


def restored_rows(
    config,
    image: np.ndarray,
    window_features: Callable[[np.ndarray], ArrayLike],
    head_tile: Callable[..., ArrayLike],
    *,
    stride: int,
    batch_size: int,
    on_windows: Callable[[int], None] = lambda done: None,
) -> Iterator[np.ndarray]:
    """Returns an iterator over a restored image from top to bottom.

    Args:
      config: of the model.
      image: `(height, width, 3 * views)`, without an `image_fault`.
      window_features: from `(batch_size, window, window, 3 * views)`, float32, to the windows'
        feature maps, `(batch_size, side, side, features)`, side = window - input_kernel + 1. It
        may return before they are computed.
      head_tile: from `(square, features, rows, columns)`, a window's square of the image, the
        blended map over it, and for each padded row and column of the tile the one of the map that
        it reads, to a tile of the restored image. Reflection at the image's borders, and nothing
        else, lies in these indices.
      stride: step between windows, pixels, at most side.
      batch_size: windows computed at once.
      on_windows: called with the number of windows just done.

    Yields:
      `(rows, width, 3)`, float32, not clipped; together as high as the image.
    """
    padded = extend_by_reflection(_with_margin(image, config.margin), config.window)
    layout = _layout(config, *padded.shape[:2], stride)
    windows = _window_maps(window_features, padded, layout, batch_size, on_windows)
    rows = _image_rows(head_tile, padded, layout, _blend(layout, windows))
    return _cropped(rows, config.margin, *image.shape[:2])


def image_fault(config, image: np.ndarray) -> str | None:
    """Returns in one line why `restored_rows` cannot take the image, or None if it can."""
    channels = 3 * config.views
    if image.ndim != 3 or image.shape[-1] != channels or 0 in image.shape:
        views = "1 view" if config.views == 1 else "2 views, left and right"
        shape = " x ".join(map(str, image.shape)) or "a single number"
        return f"the model takes height x width x {channels} ({views}); the image is {shape}"
    if image.dtype in (np.uint8, np.uint16):
        return None
    if image.dtype.kind != "f" and image.dtype.name != "bfloat16":
        return f"an image is uint8, uint16 or float in [0, 1]; this one is {image.dtype}"
    smallest, largest = float(image.min()), float(image.max())
    if not np.isfinite([smallest, largest]).all():
        return "the image has values that are not finite (NaN or infinity)"
    if smallest < -1 or largest > 2:
        return (
            "floats stand for light in [0, 1]; this image goes from "
            f"{smallest:.4g} to {largest:.4g}"
        )
    return None


def count_windows(config, height: int, width: int, stride: int | None = None) -> int:
    """Returns how many windows an image of that size is cut into.

    Args:
      config: of the model.
      height: of the image, pixels.
      width: likewise.
      stride: step between windows, pixels; by default the model's.
    """
    side, stride = config.window, stride or config.stride
    rows, columns = (
        window_starts(max(length + 2 * config.margin, side), side, stride)
        for length in (height, width)
    )
    return len(rows) * len(columns)


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Returns where windows begin along a side; the last one is moved back to the edge."""
    return [*range(0, length - window, stride), length - window]


def extend_by_reflection(image: np.ndarray, side: int) -> np.ndarray:
    """Extends bottom and right to at least `side` pixels; larger images stay as they are."""
    missing = [max(0, side - length) for length in image.shape[:2]]
    if not any(missing):
        return image
    return np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="reflect")


def as_float(image: np.ndarray) -> np.ndarray:
    """Returns float32 with integers' whole range mapped to [0, 1]."""
    if image.dtype.kind == "u":
        return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)
    return image.astype(np.float32)


def as_dtype(image: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    """Returns floats as `dtype`: clipped and rounded to its whole range where it is an integer."""
    if np.dtype(dtype).kind != "u":
        return image.astype(dtype)
    whole = np.iinfo(dtype).max
    return np.round(image.clip(0, 1) * np.float32(whole)).astype(dtype)


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
    """Where windows and tiles lie in an image; lengths in pixels."""

    height: int
    width: int
    window: int
    side: int  # of a window's feature map, and of the part of the whole map that a tile reads
    tile: int  # side of the square of pixels that the image head makes at once
    padding: int  # of the image head's reflection
    rows: list[int]
    columns: list[int]

    @property
    def map_height(self) -> int:
        return self.height - self.window + self.side

    @property
    def map_width(self) -> int:
        return self.width - self.window + self.side


def _layout(config, height, width, stride) -> _Layout:
    side = config.window - config.input_kernel + 1
    return _Layout(
        height=height,
        width=width,
        window=config.window,
        side=side,
        tile=side - config.output_kernel + 1,
        padding=(config.input_kernel + config.output_kernel) // 2 - 1,
        rows=window_starts(height, config.window, stride),
        columns=window_starts(width, config.window, stride),
    )


def _window_maps(window_features, image, layout, batch_size, on_windows):
    """Yields the windows' feature maps, row by row of windows.

    The next batch is under way while a batch is handed out.
    """
    corners = itertools.product(layout.rows, layout.columns)
    under_way = None
    while batch := list(itertools.islice(corners, batch_size)):
        repeated = batch + batch[-1:] * (batch_size - len(batch))
        windows = np.stack([as_float(_square(image, y, x, layout.window)) for y, x in repeated])
        maps = window_features(windows)
        if under_way is not None:
            yield from _hand_out(*under_way, on_windows)
        under_way = maps, len(batch)
    yield from _hand_out(*under_way, on_windows)


def _hand_out(maps, count, on_windows):
    arrived = np.asarray(maps)[:count]
    on_windows(count)
    yield from arrived


def _square(image, top, left, side):
    return image[top : top + side, left : left + side]


def _blend(layout: _Layout, window_maps: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yields the rows of the averaged map, `(rows, map_width, features)`, as they are finished."""
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
    """Yields the restored rows, a row of tiles at a time, as soon as the map reaches far enough."""
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
    """Returns which rows of its part of the map a tile reads, and where that part begins."""
    part = min(max(start - layout.padding, 0), map_length - layout.side)
    rows = np.abs(np.arange(layout.side) + start - layout.padding)
    rows = np.where(rows < map_length, rows, 2 * (map_length - 1) - rows)
    return (rows - part).astype(np.int32), part
