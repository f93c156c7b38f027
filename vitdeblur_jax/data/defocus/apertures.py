"""Apertures and the images of a point that they make: what a lens out of focus convolves with.

An aperture is its signed distance: a function of x to the right and y downwards that tells how far
a place is outside (negative: inside), in units of the aperture's radius. An intersection of shapes
is the largest of their distances, so that each shape is one line and all are sampled by one
function, `point_image`.
"""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float

_Field = Float[np.ndarray, "..."]
Aperture = Callable[[_Field, _Field], _Field]
Half = Literal["left", "right"]

_LEAST_SAMPLES, _SAMPLES = 8, 48  # a side of a pixel, and across half of a kernel


def disk() -> Aperture:
    """Return the aperture of a lens that is wide open, a unit disk."""
    return lambda x, y: np.hypot(x, y) - 1


def polygon(blades: int, rotation: float = 0.0) -> Aperture:
    """Return a regular polygon inscribed into the unit disk, of area n / 2 * sin(2 pi / n).

    Args:
        blades: Number of sides, 3 or more.
        rotation: Of the first corner from the x axis, radians.
    """
    normals = rotation + (2 * np.arange(blades) + 1) * (math.pi / blades)
    apothem = math.cos(math.pi / blades)

    def distance(x: _Field, y: _Field) -> _Field:
        sides = [x * math.cos(angle) + y * math.sin(angle) for angle in normals]
        return np.maximum.reduce(sides) - apothem

    return distance


def cat_eye(offset: float, direction: float = 0.0) -> Aperture:
    """Return the intersection of two unit disks: the aperture away from the optical axis.

    There the rims of the front and of the rear elements, seen obliquely, both cut the beam
    (optical vignetting). The middle of the two disks' centres is the origin, so that the blur does
    not move the image.

    Args:
        offset: Distance of the two centres, 0 (the whole disk) to 2 (nothing left).
        direction: Of the line through both centres, radians.
    """
    shift_x, shift_y = 0.5 * offset * math.cos(direction), 0.5 * offset * math.sin(direction)
    return lambda x, y: (
        np.maximum(np.hypot(x - shift_x, y - shift_y), np.hypot(x + shift_x, y + shift_y)) - 1
    )


def point_image(
    aperture: Aperture, radius: float, half: Half | None = None
) -> Float[np.ndarray, "size size"]:
    """Return the image of a point, which is the aperture scaled to the defocus radius.

    Its values are the shares of the aperture's area that fall on each pixel, so that radii between
    pixels are anti-aliased; up to a radius of half a pixel all falls on one. Coverage is sampled
    8 x 8 times a pixel or more often, each sample itself anti-aliased along the distance.

    Seen in the direction of the view, a point behind the plane of focus (radius above 0) shows the
    aperture upright, one in front of it shows it turned by 180 degrees.

    Args:
        aperture: Its shape.
        radius: Defocus radius in pixels, below 0 in front of the plane of focus.
        half: Of the light, what enters through this half of the aperture: the view of one half of
            a dual-pixel sensor. The aperture is cut vertically where both halves pass the same
            light; the mean of both is the image of the whole.

    Returns:
        A kernel of odd size in float64, its sum 1.
    """
    reach = max(math.ceil(abs(radius) - 0.5), 0)
    if reach == 0:
        return np.ones((1, 1))
    size, samples = 2 * reach + 1, max(_LEAST_SAMPLES, _SAMPLES // reach)
    centres = (np.arange(size * samples) + 0.5) / samples - size / 2
    x, y = np.meshgrid(centres / abs(radius), centres / abs(radius))
    coverage = np.clip(0.5 - aperture(x, y) * (abs(radius) * samples), 0, 1)
    if half:
        left = _left_share(coverage)
        coverage = coverage * (left if half == "left" else 1 - left)
    kernel = coverage.reshape(size, samples, size, samples).sum((1, 3))
    kernel /= kernel.sum()
    return kernel[::-1, ::-1] if radius < 0 else kernel


def _left_share(coverage: Float[np.ndarray, "n n"]) -> Float[np.ndarray, " n"]:
    """Return what of each column belongs to the left half of the light."""
    columns = coverage.sum(0)
    before = np.cumsum(columns) - columns
    missing = columns.sum() / 2 - before
    return np.clip(missing / np.maximum(columns, 1e-12), 0, 1)
