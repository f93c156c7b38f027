"""Apertures as pytrees, and their point images; see `vitdeblur_jax.data.defocus.apertures`."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from vitdeblur_jax.data.defocus.apertures import (
    LEAST_SAMPLES,
    SAMPLES,
    Half,
    left_share,
    transmission,
)

MOST_BLADES = 9
_RIM = 1.5  # samples on either side of the rim
_EXACT = jax.lax.Precision.HIGHEST


class Aperture(NamedTuple):
    """A regular polygon, or the intersection of two unit disks.

    Attributes:
        blades: Number of sides of the polygon, 3 to `MOST_BLADES`; 0 for disks.
        angle: Angle in radians of the polygon's first corner, or of the line through the centers
            of the disks.
        offset: Distance between the centers of the disks; 0 for a full disk.
        falloff: How much less light the rim transmits than the center; see `transmission`.
    """

    blades: ArrayLike
    angle: ArrayLike
    offset: ArrayLike
    falloff: ArrayLike = 0.0


def disk() -> Aperture:
    """Returns the aperture of a wide open lens, a unit disk."""
    return Aperture(0, 0.0, 0.0)


def polygon(blades: ArrayLike, rotation: ArrayLike = 0.0) -> Aperture:
    """Returns a regular polygon inscribed in the unit disk, of 3 to `MOST_BLADES` sides."""
    return Aperture(blades, rotation, 0.0)


def cat_eye(offset: ArrayLike, direction: ArrayLike = 0.0) -> Aperture:
    """Returns the intersection of two unit disks: the aperture away from the optical axis."""
    return Aperture(0, direction, offset)


def point_image(
    aperture: Aperture,
    radius: Float[Array, ""] | float,
    largest_radius: float,
    half: Half | None = None,
) -> Float[Array, "size size"]:
    """Returns the image of a point: the aperture scaled to the defocus radius.

    The samples are those of the NumPy function. The kernel is differentiable in the radius.

    Args:
        aperture: The aperture.
        radius: Signed defocus radius in pixels, negative in front of the plane of focus.
        largest_radius: Bound of the absolute radius; it determines the size of the kernel.
        half: Use only the light through this half of the aperture.

    Returns:
        A kernel of odd size with sum 1, padded with zeros.
    """
    most = max(math.ceil(largest_radius - 0.5), 0)
    size = jnp.abs(jnp.asarray(radius, jnp.float32))
    reach = jnp.clip(jnp.ceil(size - 0.5), 0, most).astype(jnp.int32)
    samples = jnp.maximum(LEAST_SAMPLES, SAMPLES // jnp.maximum(reach, 1))
    numbers = np.arange(_most_samples(most))
    is_inside = numbers < (2 * reach + 1) * samples
    centers = (numbers + 0.5) / samples - (reach + 0.5)
    scale = jnp.maximum(size, 0.25)  # up to half a pixel, any scale gives a single pixel
    x, y = centers / scale, centers[:, None] / scale
    coverage = _coverage(_distance(aperture, x, y) * (scale * samples))
    coverage = coverage * jnp.maximum(transmission(aperture.falloff, x, y), 0)
    coverage = jnp.where(is_inside & is_inside[:, None], coverage, 0)
    if half:
        left = left_share(coverage)
        coverage = coverage * (left if half == "left" else 1 - left)
    pixels = numbers // samples + most - reach
    pool = (is_inside & (pixels == np.arange(2 * most + 1)[:, None])).astype(jnp.float32)
    kernel = jnp.linalg.multi_dot((pool, coverage, pool.T), precision=_EXACT)
    kernel = kernel / kernel.sum()
    return jnp.where(jnp.asarray(radius) < 0, kernel[::-1, ::-1], kernel)


def _most_samples(most_reach: int) -> int:
    reaches = range(1, most_reach + 1)
    counts = [(2 * reach + 1) * max(LEAST_SAMPLES, SAMPLES // reach) for reach in reaches]
    return max([SAMPLES, *counts])


def _distance(
    aperture: Aperture, x: Float[Array, "..."], y: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Returns the signed distance to the rim, negative inside."""
    cosine, sine = jnp.cos(aperture.angle), jnp.sin(aperture.angle)
    shift_x, shift_y = 0.5 * aperture.offset * cosine, 0.5 * aperture.offset * sine
    disks = jnp.maximum(_norm(x - shift_x, y - shift_y), _norm(x + shift_x, y + shift_y)) - 1
    blades = jnp.maximum(aperture.blades, 3)
    sides = -jnp.inf
    for number in range(MOST_BLADES):
        side = jnp.minimum(number, blades - 1)
        normal = aperture.angle + (2 * side + 1) * (math.pi / blades)
        sides = jnp.maximum(sides, x * jnp.cos(normal) + y * jnp.sin(normal))
    return jnp.where(aperture.blades > 0, sides - jnp.cos(math.pi / blades), disks)


@jax.custom_jvp
def _coverage(distance: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns how much of a sample is covered, by its signed distance to the rim in samples."""
    return jnp.clip(0.5 - distance, 0, 1)


@_coverage.defjvp
def _coverage_jvp(primals, tangents):
    # The exact derivative is 1 within half a sample of the rim, so few samples have any. This one
    # is as large in total and three times as wide: a kernel's derivative by the radius is then
    # 0.5 % off instead of 4 %.
    (distance,), (tangent,) = primals, tangents
    slope = jnp.maximum(0, 1 - jnp.abs(distance) / _RIM) / _RIM
    return _coverage(distance), -slope * tangent


def _norm(x: Float[Array, "..."], y: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.sqrt(x**2 + y**2 + 1e-12)  # with a gradient at the center
