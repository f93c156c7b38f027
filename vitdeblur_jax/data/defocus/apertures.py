"""Apertures and their point images, the kernels of defocus blur.

The shape of an aperture is a signed distance function of x (right) and y (down), in units of the
aperture's radius. It is positive outside the aperture and negative inside. An intersection of
shapes is the maximum of their distances. `point_image` samples all shapes.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

_Field = Float[np.ndarray, "..."]
_Values = Float[np.ndarray | jax.Array, "..."]
Half = Literal["left", "right"]

LEAST_SAMPLES, SAMPLES = 8, 48  # per pixel and axis, and per half kernel and axis


class Aperture(NamedTuple):
    """The shape of an aperture and the light through it.

    Attributes:
        distance: The signed distance to the rim at x and y.
        falloff: How much less light the rim transmits than the center; see `transmission`.
    """

    distance: Callable[[_Field, _Field], _Field]
    falloff: float = 0.0


def disk() -> Aperture:
    """Returns the aperture of a wide open lens, a unit disk."""
    return Aperture(lambda x, y: np.hypot(x, y) - 1)


def polygon(blades: int, rotation: float = 0.0) -> Aperture:
    """Returns a regular polygon inscribed in the unit disk, with area n / 2 * sin(2 pi / n).

    Args:
        blades: Number of sides n, 3 or more.
        rotation: Angle of the first corner from the x axis in radians.
    """
    normals = rotation + (2 * np.arange(blades) + 1) * (math.pi / blades)
    apothem = math.cos(math.pi / blades)

    def distance(x: _Field, y: _Field) -> _Field:
        sides = [x * math.cos(angle) + y * math.sin(angle) for angle in normals]
        return np.maximum.reduce(sides) - apothem

    return Aperture(distance)


def cat_eye(offset: float, direction: float = 0.0) -> Aperture:
    """Returns the intersection of two unit disks: the aperture away from the optical axis.

    Away from the axis, the rims of the front and rear lens elements both cut the beam (optical
    vignetting). The origin is midway between the centers of the disks, so the blur does not shift
    the image.

    Args:
        offset: Distance of the two centers, from 0 (a full disk) to 2 (empty).
        direction: Angle of the line through both centers in radians.
    """
    shift_x, shift_y = 0.5 * offset * math.cos(direction), 0.5 * offset * math.sin(direction)
    return Aperture(
        lambda x, y: (
            np.maximum(np.hypot(x - shift_x, y - shift_y), np.hypot(x + shift_x, y + shift_y)) - 1
        )
    )


def transmission(falloff: _Values | float, x: _Values, y: _Values) -> _Values:
    """Returns the relative light through an aperture at x and y.

    It is linear in the squared distance from the center: 1 + falloff at the center, 1 - falloff at
    the rim of the unit disk, and 1 on average over the disk. Lenses with vignetting and the views
    of a light field have less light at the rim; spherical aberration can make it brighter.

    Args:
        falloff: -1 (no light at the center) to 1 (no light at the rim); 0 is uniform.
        x: In units of the aperture's radius.
        y: In units of the aperture's radius.
    """
    return 1 + falloff * (1 - 2 * (x**2 + y**2))


def point_image(
    aperture: Aperture, radius: float, half: Half | None = None
) -> Float[np.ndarray, "size size"]:
    """Returns the image of a point: the aperture scaled to the defocus radius.

    The value of a pixel is the fraction of the aperture's light in it, so fractional radii are
    anti-aliased. With a radius of up to half a pixel, the kernel is a single pixel. Each pixel has
    at least 8 x 8 coverage samples, and each sample is anti-aliased by its distance.

    The image of a point behind the plane of focus (positive radius) has the orientation of the
    aperture, seen along the viewing direction. In front of it, the image is rotated by 180 degrees.

    Args:
        aperture: The aperture.
        radius: Signed defocus radius in pixels, negative in front of the plane of focus.
        half: Use only the light through this half of the aperture, as one view of a dual-pixel
            sensor does. A vertical cut splits the aperture into halves of equal light. The mean of
            both halves is the image of the whole aperture.

    Returns:
        A float64 kernel of odd size with sum 1.
    """
    reach = max(math.ceil(abs(radius) - 0.5), 0)
    if reach == 0:
        return np.ones((1, 1))
    size, samples = 2 * reach + 1, max(LEAST_SAMPLES, SAMPLES // reach)
    centers = (np.arange(size * samples) + 0.5) / samples - size / 2
    x, y = np.meshgrid(centers / abs(radius), centers / abs(radius))
    coverage = np.clip(0.5 - aperture.distance(x, y) * (abs(radius) * samples), 0, 1)
    coverage *= np.maximum(transmission(aperture.falloff, x, y), 0)
    if half:
        left = left_share(coverage)
        coverage = coverage * (left if half == "left" else 1 - left)
    kernel = coverage.reshape(size, samples, size, samples).sum((1, 3))
    kernel /= kernel.sum()
    return kernel[::-1, ::-1] if radius < 0 else kernel


def left_share(
    coverage: Float[np.ndarray | jax.Array, "n n"],
) -> Float[np.ndarray | jax.Array, " n"]:
    """Returns the fraction of each column that belongs to the left half of the light."""
    columns = coverage.sum(0)
    before = columns.cumsum() - columns
    missing = columns.sum() / 2 - before
    return (missing / columns.clip(1e-12)).clip(0, 1)
