"""Resizing for the networks of metrics: one matrix per axis, which depends only on the sizes.

Half-pixel centers: pixel i of the output lies at (i + 0.5) * n_in / n_out - 0.5 of the input. These
positions are computed in float32, as in PyTorch; float64 differs by up to 1e-4 of the range.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from vitdeblur_jax.metrics.numerics import RGBImage

_ALL = slice(None)


def resize_bicubic(image: RGBImage, height: int, width: int) -> Float[Array, "h w 3"]:
    """Resizes an image like PyTorch's bicubic `interpolate`: a = -0.75, no antialiasing."""
    rows, columns = image.shape[:2]
    return _resized(image, bicubic_matrix(rows, height), bicubic_matrix(columns, width))


def resize_antialiased(
    image: RGBImage, height: int, width: int, rows: slice = _ALL, columns: slice = _ALL
) -> Float[Array, "h w 3"]:
    """Resizes an image with Pillow's antialiasing bicubic filter: a = -0.5, no clamping.

    It computes only the given rows and columns of the result.
    """
    down = antialiased_matrix(image.shape[0], height, rows)
    return _resized(image, down, antialiased_matrix(image.shape[1], width, columns))


def resize_nearest(
    image: RGBImage, height: int, width: int, rows: slice = _ALL, columns: slice = _ALL
) -> Float[Array, "h w 3"]:
    """Returns rows and columns of an image that PyTorch's nearest `interpolate` resizes."""
    taken = jnp.asarray(image)[nearest_indices(image.shape[0], height)[rows]]
    return taken[:, nearest_indices(image.shape[1], width)[columns]]


def _resized(image, rows, columns):
    matrices = (jnp.asarray(matrix, image.dtype) for matrix in (rows, columns))
    return jnp.einsum("ih,hwc,jw->ijc", next(matrices), image, next(matrices), precision="highest")


def bicubic_matrix(size: int, new_size: int) -> Float[np.ndarray, "new_size size"]:
    """Returns the weights of `resize_bicubic`, which extends an image by its border pixels."""
    centres = _centres(size, new_size) - np.float32(0.5)
    taps = np.floor(centres).astype(int)[:, None] + np.arange(-1, 3)
    matrix = np.zeros((new_size, size))
    places = np.arange(new_size)[:, None], taps.clip(0, size - 1)
    np.add.at(matrix, places, _cubic(taps - centres[:, None], -0.75))
    return matrix


def antialiased_matrix(
    size: int, new_size: int, kept: slice = _ALL
) -> Float[np.ndarray, "kept size"]:
    """Returns the weights of `resize_antialiased`, which ignores taps outside of the image."""
    stretch = max(size / new_size, 1.0)
    centres = _centres(size, new_size)[kept, None].astype(float)
    first = np.maximum((centres - 2 * stretch + 0.5).astype(int), 0)
    end = np.minimum((centres + 2 * stretch + 0.5).astype(int), size)
    taps = np.arange(size)
    weights = _cubic((taps - centres + 0.5) / stretch, -0.5) * ((taps >= first) & (taps < end))
    return weights / weights.sum(axis=1, keepdims=True)


def nearest_indices(size: int, new_size: int) -> Integer[np.ndarray, " new_size"]:
    """Returns the indices of `resize_nearest`, computed in float32 as in PyTorch."""
    scale = np.float32(size / new_size)
    return np.minimum((np.arange(new_size, dtype=np.float32) * scale).astype(int), size - 1)


def _centres(size, new_size):
    scale = np.float32(size) / np.float32(new_size)
    return (np.arange(new_size, dtype=np.float32) + np.float32(0.5)) * scale


def _cubic(distance, a):
    """Returns Keys' kernel, "Cubic convolution interpolation", IEEE TASSP 29, 1981."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))
