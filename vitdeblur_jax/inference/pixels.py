"""Converts pixels between integer images and batches of floats for a network.

This file is copied into exported models, which do not have this package. So it uses only NumPy, has
no jaxtyping annotations, and returns error messages instead of raising `UserError`.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import ArrayLike, DTypeLike


def image_fault(views: int, image: np.ndarray) -> str | None:
    """Returns an error message if a network with `views` views cannot take the image, else None."""
    channels = 3 * views
    if image.ndim != 3 or image.shape[-1] != channels or 0 in image.shape:
        named = {1: "1 view", 2: "2 views, left and right"}.get(views, f"{views} views")
        shape = " x ".join(map(str, image.shape)) or "a single number"
        return f"the network takes height x width x {channels} ({named}); the image is {shape}"
    if image.dtype in (np.uint8, np.uint16):
        return None
    if image.dtype.kind != "f" and image.dtype.name != "bfloat16":
        return f"an image must be uint8, uint16 or float in [0, 1]; this one is {image.dtype}"
    smallest, largest = float(image.min()), float(image.max())
    if not np.isfinite([smallest, largest]).all():
        return "the image has values that are not finite (NaN or infinity)"
    if smallest < -1 or largest > 2:
        return (
            "float images have values in [0, 1]; this image has values from "
            f"{smallest:.4g} to {largest:.4g}"
        )
    return None


def as_float(image: np.ndarray) -> np.ndarray:
    """Returns float32; the full range of an integer dtype is mapped to [0, 1]."""
    if image.dtype.kind == "u":
        return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)
    return image.astype(np.float32)


def as_dtype(image: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    """Returns floats as `dtype`; for integers, clips to [0, 1], scales and rounds."""
    if np.dtype(dtype).kind != "u":
        return image.astype(dtype)
    whole = np.iinfo(dtype).max
    return np.round(image.clip(0, 1) * np.float32(whole)).astype(dtype)


def extend_by_reflection(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Extends an image at the bottom and right to at least `height` x `width`.

    Reflects repeatedly if needed, without repeating the edge pixel. A side that is already long
    enough is unchanged.
    """
    missing = max(0, height - image.shape[0]), max(0, width - image.shape[1])
    if not any(missing):
        return image
    return np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="reflect")


def in_batches(
    function: Callable[[np.ndarray], ArrayLike],
    tiles: Iterable[np.ndarray],
    batch_size: int,
    on_tiles: Callable[[int], None],
) -> Iterator[np.ndarray]:
    """Yields the result for each tile; the next batch is computed while one is consumed.

    The last batch is filled with copies of its last tile: one shape, so one compilation.

    Args:
      function: Maps a batch of tiles, float32, to a batch of results. It may return before they are
        computed.
      tiles: One or more tiles of equal shape, of any dtype that `as_float` takes.
      batch_size: Tiles per batch.
      on_tiles: Called after each batch with its number of tiles.
    """
    tiles, pending = iter(tiles), None
    while batch := list(itertools.islice(tiles, batch_size)):
        filled = batch + batch[-1:] * (batch_size - len(batch))
        results = function(np.stack([as_float(tile) for tile in filled]))
        if pending is not None:
            yield from _hand_out(*pending, on_tiles)
        pending = results, len(batch)
    yield from _hand_out(*pending, on_tiles)


def _hand_out(results, count, on_tiles):
    arrived = np.asarray(results)[:count]
    on_tiles(count)
    yield from arrived
