"""Cuts tiles from an image and joins their results, on the device.

This file is copied into exported models, which do not have this package. So it uses only JAX and
NumPy, and has no jaxtyping annotations.

An image reaches the device in strips: some rows over the whole width, as integers where the image
has integers. Restored strips come back in the dtype of the result. So memory does not grow with the
image's height. The width of a strip is rounded up to a bucket, so images of many sizes share few
compiled functions.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from numpy.typing import DTypeLike

from .pixels import as_dtype, as_float, blended

_SMALLEST_BUCKET = 256  # pixels


class NonFiniteError(ValueError):
    """The network's output has values that are not finite."""

    def __init__(self):
        super().__init__("the network's output is not finite")


class Output(NamedTuple):
    """What becomes of the restored pixels.

    Attributes:
      dtype: uint8 or uint16, which clip and round; any other gives float32, which does not.
      strength: Weight of the restored image, from 0 to 1; the rest is the mean of the views.
    """

    dtype: DTypeLike
    strength: float = 1.0


FLOAT_OUTPUT = Output(np.float32)


class Strip(NamedTuple):
    """Rows of an image on the device.

    Attributes:
      pixels: `(rows, bucket, channels)`; uint8, uint16 or float32.
      white: The value that is mapped to 1.
    """

    pixels: jax.Array
    white: ArrayLike


class ExtendedImage(NamedTuple):
    """An image that is extended by reflection where strips of it are taken.

    Attributes:
      image: `(height, width, channels)`.
      rows: The image's row for each row of the extended image.
      columns: The image's column for each column of the extended image.
    """

    image: np.ndarray
    rows: np.ndarray
    columns: np.ndarray

    @property
    def bucket(self) -> int:
        """The width of the strips."""
        return bucket_of(len(self.columns))

    def strip(self, top: int, height: int) -> Strip:
        """Copies rows of the extended image to the device."""
        columns = np.pad(self.columns, (0, self.bucket - len(self.columns)), mode="edge")
        pixels = np.take(self.image[self.rows[top : top + height]], columns, axis=1)
        if pixels.dtype.kind == "u":
            return Strip(jax.device_put(pixels, _device()), np.float32(np.iinfo(pixels.dtype).max))
        return Strip(jax.device_put(as_float(pixels), _device()), np.float32(1))


def extended_image(image: np.ndarray, margin: int, height: int, width: int) -> ExtendedImage:
    """Extends an image by reflection, without repeating the edge pixel.

    Args:
      image: `(height, width, channels)`.
      margin: Pixels added on each side.
      height: Minimum height with the margin; missing rows are added at the bottom.
      width: Minimum width with the margin; missing columns are added at the right.
    """
    sides = zip(image.shape[:2], (height, width), strict=True)
    return ExtendedImage(image, *(_reflected(length, margin, minimum) for length, minimum in sides))


def bucket_of(width: int) -> int:
    """Rounds a width up to a bucket: at least 256, and four buckets in each octave."""
    step = max(_SMALLEST_BUCKET, 1 << max(0, (width - 1).bit_length() - 3))
    return -(-width // step) * step


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Returns the starts of the windows along an axis; the last window ends at the edge."""
    return [*range(0, length - window, stride), length - window]


def in_batches(
    function: Callable[[jax.Array], jax.Array],
    tiles: Iterable[jax.Array],
    batch_size: int,
    on_tiles: Callable[[int], None],
) -> Iterator[tuple[jax.Array, int]]:
    """Yields the batch of results and the index in it for each tile.

    While a batch is consumed, the next one is computed. The last batch is filled with copies of its
    last tile: one shape, so one compilation.

    Args:
      function: Maps a batch of tiles to a batch of results. It may return before they are computed.
      tiles: One or more tiles of equal shape.
      batch_size: Tiles per batch.
      on_tiles: Called after each batch with its number of tiles.
    """
    tiles, pending = iter(tiles), None
    while batch := list(itertools.islice(tiles, batch_size)):
        results = function(_stacked(*batch, *batch[-1:] * (batch_size - len(batch))))
        if pending is not None:
            yield from _hand_out(*pending, on_tiles)
        pending = results, len(batch)
    yield from _hand_out(*pending, on_tiles)


@functools.partial(jax.jit, static_argnames="width")
def cut(strip: Strip, left: ArrayLike, width: int) -> jax.Array:
    """Returns a tile of a strip, `(rows, width, channels)`, float32 in [0, 1]."""
    tile = jax.lax.dynamic_slice_in_dim(strip.pixels, left, width, axis=1)
    return _as_floats(tile, strip.white)


def zeros(rows: int, width: int, channels: int) -> jax.Array:
    """Returns zeros on the device, float32."""
    return jax.device_put(np.zeros((rows, width, channels), np.float32), _device())


@functools.partial(jax.jit, donate_argnames="joined")
def place(
    joined: jax.Array,
    results: jax.Array,
    index: ArrayLike,
    left: ArrayLike,
    kept_from: ArrayLike,
    kept_to: ArrayLike,
) -> jax.Array:
    """Copies columns of a result to a strip.

    Args:
      joined: The strip, `(rows, bucket, channels)`; donated.
      results: A batch of results, `(batch, rows, width, channels)`.
      index: The result's index in the batch.
      left: The result's first column in the strip.
      kept_from: The first column of the result to copy.
      kept_to: The end of the columns to copy.

    Returns:
      The changed strip.
    """
    result = results[index]
    columns = jnp.arange(result.shape[1])[:, None]
    before = jax.lax.dynamic_slice_in_dim(joined, left, result.shape[1], axis=1)
    chosen = jnp.where((kept_from <= columns) & (columns < kept_to), result, before)
    return jax.lax.dynamic_update_slice_in_dim(joined, chosen, left, axis=1)


def finished(
    joined: jax.Array, given: Strip | None, offset: int, output: Output
) -> tuple[jax.Array, jax.Array]:
    """Returns restored rows as the output wants them, and whether all are finite.

    Args:
      joined: Restored rows, `(rows, bucket, 3)`, float32.
      given: A strip of the blurred image that contains these rows; None if the strength is 1.
      offset: The first of them in that strip.
      output: The dtype, and the weight of the restored image.
    """
    dtype = np.dtype(output.dtype)
    dtype = dtype if dtype.kind == "u" else np.dtype(np.float32)
    strength = None if output.strength == 1 else np.float32(output.strength)
    return _finished(joined, given, offset, strength, dtype)


@functools.partial(jax.jit, static_argnames="dtype")
def _finished(joined, given, offset, strength, dtype):
    is_finite = jnp.isfinite(joined).all()
    if strength is not None:
        pixels = jax.lax.dynamic_slice_in_dim(given.pixels, offset, joined.shape[0], axis=0)
        joined = blended(_as_floats(pixels, given.white), joined, strength)
    return as_dtype(joined, dtype), is_finite


def _as_floats(pixels, white):
    # XLA replaces a division by a scalar with a product, which rounds otherwise than NumPy does.
    divisor = jax.lax.optimization_barrier(jnp.broadcast_to(white, pixels.shape))
    return pixels.astype(jnp.float32) / divisor


def on_host(strips: Iterable[tuple[jax.Array, jax.Array]]) -> Iterator[np.ndarray]:
    """Yields the rows of `finished` strips as NumPy arrays; one strip is in flight.

    Raises:
      NonFiniteError: A strip has values that are not finite.
    """
    pending = None
    for strip in strips:
        for array in strip:
            array.copy_to_host_async()
        if pending is not None:
            yield _arrived(*pending)
        pending = strip
    yield _arrived(*pending)


def _arrived(rows, is_finite):
    if not is_finite:
        raise NonFiniteError
    return np.asarray(rows)


def _hand_out(results, count, on_tiles):
    results.block_until_ready()
    on_tiles(count)
    yield from ((results, index) for index in range(count))


@jax.jit
def _stacked(*tiles):
    return jnp.stack(tiles)


def _reflected(length, margin, minimum):
    inside = np.pad(np.arange(length), margin, mode="reflect")
    return np.pad(inside, (0, max(0, minimum - len(inside))), mode="reflect")


def _device():
    return jax.local_devices()[0]
