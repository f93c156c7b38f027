"""The visible and the hidden surface of an image, as in `vitdeblur_jax.data.defocus.thin_lens`."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vitdeblur_jax.data.defocus.thin_lens import EDGE

Map = Float[Array, "height width"]
Image = Float[Array, "height width 3"]
_Marked = Bool[Array, "height width"]
_Places = Int[Array, "height width"]


class Surfaces(NamedTuple):
    """Opaque parts of a scene.

    Attributes:
        color: Linear light. Values outside a surface are arbitrary.
        radius: The signed defocus radius in pixels.
        present: The coverage by the surface, 0 to 1.
    """

    color: Float[Array, "surfaces height width 3"]
    radius: Float[Array, "surfaces height width"]
    present: Float[Array, "surfaces height width"]


def surfaces_of(image: Image, radius: Map, largest_radius: float) -> Surfaces:
    """Splits an image into its visible surface and an estimated hidden one, which may be absent.

    See the NumPy function of the same name. Gradients flow through colors and radii; which pixels
    are edges, and which are nearest, is constant.

    Args:
        image: Linear light.
        radius: Signed defocus radius in pixels.
        largest_radius: Bound of the absolute radius.
    """
    far_side = _far_sides(radius)
    squared, rows, columns = _nearest(far_side, math.floor(2 * largest_radius + 1))
    behind = radius[rows, columns]
    reach = 2 * jnp.abs(radius).max() + 1
    is_hidden = (behind > radius + EDGE) & (squared <= reach**2) & far_side.any()
    height, width = radius.shape
    mirrored_rows = jnp.clip(2 * rows - jnp.arange(height)[:, None], 0, height - 1)
    mirrored_columns = jnp.clip(2 * columns - jnp.arange(width), 0, width - 1)
    is_same = jnp.abs(radius[mirrored_rows, mirrored_columns] - behind) <= EDGE
    rows = jnp.where(is_same, mirrored_rows, rows)
    columns = jnp.where(is_same, mirrored_columns, columns)
    # At a straight edge, 3 of 9 neighbors are on the far side; half of the last pixel is removed.
    present = 1 - is_hidden * jnp.minimum(1.5 * _mean_of_neighbors(far_side), 1)
    return Surfaces(
        color=jnp.stack((image, image[rows, columns])),
        radius=jnp.stack((radius, behind)),
        present=jnp.stack((present, is_hidden.astype(present.dtype))),
    )


def _far_sides(radius: Map) -> _Marked:
    """Marks the pixels with a neighbor whose radius is smaller by more than `EDGE`."""
    beyond = jnp.pad(radius, 1, mode="edge")
    neighbors = beyond[:-2, 1:-1], beyond[2:, 1:-1], beyond[1:-1, :-2], beyond[1:-1, 2:]
    nearest = jnp.minimum(jnp.minimum(*neighbors[:2]), jnp.minimum(*neighbors[2:]))
    return radius - nearest > EDGE


def _mean_of_neighbors(marked: _Marked) -> Map:
    """Returns the mean of the 3 x 3 pixels around each one."""
    beyond = jnp.pad(marked.astype(jnp.float32), 1, mode="symmetric")
    return jax.lax.reduce_window(beyond, 0.0, jax.lax.add, (3, 3), (1, 1), "VALID") / 9


def _nearest(marked: _Marked, reach: int) -> tuple[_Places, _Places, _Places]:
    """Returns the squared distance, the row and the column of the nearest marked pixel.

    They are exact up to a distance of `reach`, and some other pixel beyond. First the nearest one
    in each column, then the nearest of the columns around (T. Saito, J. Toriwaki, "New algorithms
    for Euclidean distance transformation of an n-dimensional digitized picture", Pattern
    Recognition 27, 1994).
    """
    height, width = marked.shape
    row, far = jnp.arange(height)[:, None], height + reach + 1
    above = jax.lax.cummax(jnp.where(marked, row, -far), axis=0)
    below = jax.lax.cummin(jnp.where(marked, row, 2 * far), axis=0, reverse=True)
    in_column = jnp.where(row - above <= below - row, above, below)
    distance = jnp.minimum(jnp.abs(in_column - row), reach + 1)
    beyond = jnp.pad(distance**2, ((0, 0), (reach, reach)), constant_values=(reach + 1) ** 2)
    count = 2 * reach + 1

    def nearer(number, best):
        squared = jax.lax.dynamic_slice_in_dim(beyond, number, width, axis=1)
        return jnp.minimum(best, (squared + (number - reach) ** 2) * count + number)

    # The distance and the column in one integer, so that one minimum finds both.
    best = jnp.full(marked.shape, jnp.iinfo(jnp.int32).max)
    best = jax.lax.fori_loop(0, count, nearer, best)
    columns = jnp.clip(jnp.arange(width) + best % count - reach, 0, width - 1)
    rows = jnp.clip(jnp.take_along_axis(in_column, columns, axis=1), 0, height - 1)
    return best // count, rows, columns
