"""One whole photograph: any size in, the same size out, in memory that does not grow with height.

The photograph is cut into overlapping windows. Their feature maps are averaged where they overlap;
the image head then turns the whole map into the image. Both go from top to bottom: a row of
windows is added up, the map's rows that no later window touches are finished, the head makes
pixels of them in square tiles, and the rows leave. Every tile has one fixed size, so two functions
are compiled, whatever the size of the photograph.

Coordinates: row y of the map is row y + (input_kernel - 1) / 2 of the image.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int
from numpy.typing import DTypeLike

from vitdeblur_jax.errors import UserError
from vitdeblur_jax.models import ViTDeblur
from vitdeblur_jax.models.configuration import check_stride
from vitdeblur_jax.sharding import batch_sharded, local_mesh, replicated


@functools.partial(jax.jit, static_argnames="model")
def window_features(
    model: ViTDeblur, variables: dict, windows: Float[ArrayLike, "batch window window channels"]
) -> Float[Array, "batch side side features"]:
    """Returns the float32 feature maps of a batch of windows."""
    return model.apply(variables, windows, method="features").astype(jnp.float32)


@functools.partial(jax.jit, static_argnames="model")
def head_tile(
    model: ViTDeblur,
    variables: dict,
    image: Float[ArrayLike, "window window channels"],
    features: Float[ArrayLike, "side side features"],
    rows: Int[ArrayLike, " padded"],
    columns: Int[ArrayLike, " padded"],
) -> Float[Array, "tile tile 3"]:
    """Returns a tile of the restored image.

    Args:
      model: the model.
      variables: its variables.
      image: a square of the input.
      features: the blended map over that square, trimmed.
      rows: for each padded row of the tile, the row of `features` it reads: reflection at the
        image's borders, and nothing else, lies in these indices.
      columns: likewise.
    """

    def apply_head(module):
        joined = module.image_head.add_input(image[None], features[None])
        return module.image_head.to_image(joined[:, rows][:, :, columns])[0]

    return model.apply(variables, method=apply_head)


def restore(
    model: ViTDeblur,
    variables: dict,
    image: np.ndarray,
    *,
    stride: int | None = None,
    batch_size: int | None = None,
    on_windows: Callable[[int], None] = lambda done: None,
) -> Iterator[Float[np.ndarray, "rows width 3"]]:
    """Returns an iterator over the restored photograph from top to bottom, float32, not clipped.

    Args:
      model: the model.
      variables: its variables.
      image: `(height, width, 3 * views)` RGB; uint8, uint16 or float in [0, 1]. A side shorter
        than a window is extended by reflection, as often as needed, and cropped back; so are all
        sides by the model's margin.
      stride: step between windows, pixels; by default the model's.
      batch_size: windows computed at once; by default 1 a CPU and 8 another device. It is
        rounded up to a multiple of the number of local devices.
      on_windows: called with the number of windows just done.

    Raises:
      UserError: the image's shape, dtype or values are wrong, the stride leaves gaps, or, while
        rows are taken, the network's output is not finite.
    """
    check_image(model, image)
    check_options(model, stride, batch_size)
    stride = model.stride if stride is None else stride
    mesh = local_mesh()
    batch_size = _whole_batch(batch_size, mesh)
    padded = extend_by_reflection(_with_margin(image, model.margin), model.window)
    layout = _layout(model, padded.shape[0], padded.shape[1], stride)
    placed = jax.device_put(variables, replicated(mesh))
    windows = _window_maps(model, placed, padded, layout, mesh, batch_size, on_windows)
    head = {"params": {"image_head": variables["params"]["image_head"]}}
    rows = _image_rows(model, head, padded, layout, _blend(layout, windows))
    return _cropped(rows, model.margin, *image.shape[:2])


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
        if not np.isfinite(wanted).all():
            raise UserError(
                "the network's output is not finite: the checkpoint may be damaged, or may need "
                "float32"
            )
        if len(wanted):
            yield wanted


def count_windows(model: ViTDeblur, height: int, width: int, stride: int | None = None) -> int:
    """Returns how many windows a photograph of that size is cut into; see `restore`."""
    side, stride = model.window, stride or model.stride
    rows, columns = (
        window_starts(max(length + 2 * model.margin, side), side, stride)
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


def as_float(image: np.ndarray) -> Float[np.ndarray, "..."]:
    """Returns float32 with integers' whole range mapped to [0, 1]."""
    if image.dtype.kind == "u":
        return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)
    return image.astype(np.float32)


def as_dtype(image: Float[np.ndarray, "..."], dtype: DTypeLike) -> np.ndarray:
    """Returns floats as `dtype`: clipped and rounded to its whole range where it is an integer."""
    if np.dtype(dtype).kind != "u":
        return image.astype(dtype)
    whole = np.iinfo(dtype).max
    return np.round(image.clip(0, 1) * np.float32(whole)).astype(dtype)


def check_image(model: ViTDeblur, image: np.ndarray) -> None:
    """Raises `UserError` unless `restore` takes the image."""
    channels = 3 * model.views
    if image.ndim != 3 or image.shape[-1] != channels or 0 in image.shape:
        views = "1 view" if model.views == 1 else "2 views, left and right"
        raise UserError(
            f"the model takes height x width x {channels} ({views}); the image is "
            f"{' x '.join(map(str, image.shape)) or 'a single number'}"
        )
    if image.dtype not in (np.uint8, np.uint16) and not jnp.issubdtype(image.dtype, jnp.floating):
        raise UserError(f"an image is uint8, uint16 or float in [0, 1]; this one is {image.dtype}")
    if image.dtype.kind != "u":
        smallest, largest = float(image.min()), float(image.max())
        if not np.isfinite([smallest, largest]).all():
            raise UserError("the image has values that are not finite (NaN or infinity)")
        if smallest < -1 or largest > 2:
            raise UserError(
                "floats stand for light in [0, 1]; this image goes from "
                f"{smallest:.4g} to {largest:.4g}"
            )


def check_options(model: ViTDeblur, stride: int | None, batch_size: int | None) -> None:
    """Raises `UserError` unless `restore` takes them; None stands for the default."""
    if stride is not None:
        check_stride(model, stride)
    if batch_size is not None and batch_size < 1:
        raise UserError(f"the batch size is {batch_size}; it must be 1 or more")


class _Layout(NamedTuple):
    """Where windows and tiles lie in a photograph; lengths in pixels."""

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


def _layout(model, height, width, stride) -> _Layout:
    side = model.window - model.input_kernel + 1
    return _Layout(
        height=height,
        width=width,
        window=model.window,
        side=side,
        tile=side - model.output_kernel + 1,
        padding=(model.input_kernel + model.output_kernel) // 2 - 1,
        rows=window_starts(height, model.window, stride),
        columns=window_starts(width, model.window, stride),
    )


def _window_maps(model, variables, image, layout, mesh, batch_size, on_windows):
    """Yields the windows' feature maps, row by row of windows.

    The next batch is under way while a batch is handed out.
    """
    corners = itertools.product(layout.rows, layout.columns)
    under_way = None
    while batch := list(itertools.islice(corners, batch_size)):
        repeated = batch + batch[-1:] * (batch_size - len(batch))
        windows = np.stack([as_float(_square(image, y, x, layout.window)) for y, x in repeated])
        maps = window_features(model, variables, jax.device_put(windows, batch_sharded(mesh)))
        if under_way is not None:
            yield from _hand_out(*under_way, on_windows)
        under_way = maps, len(batch)
    yield from _hand_out(*under_way, on_windows)


def _hand_out(maps, count, on_windows):
    arrived = np.asarray(maps)[:count]
    on_windows(count)
    yield from arrived


def _whole_batch(batch_size, mesh):
    devices = mesh.devices.flat
    if batch_size is None:
        batch_size = sum(1 if device.platform == "cpu" else 8 for device in devices)
    return -(-batch_size // len(devices)) * len(devices)


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


def _coverage(starts, side, length) -> Float[np.ndarray, " length"]:
    counts = np.zeros(length, np.float32)
    for start in starts:
        counts[start : start + side] += 1
    return counts


def _image_rows(model, head, image, layout: _Layout, map_rows: Iterable[np.ndarray]):
    """Yields the restored rows, a row of tiles at a time, as soon as the map reaches far enough."""
    # The tiles of one photograph are few: one device makes them all.
    head = jax.device_put(head, jax.local_devices()[0])
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
            tiles.append((left, head_tile(model, head, square, features, rows, columns)))
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
