"""Thin-lens defocus: a sharp image rendered with a defocus radius for each pixel.

The defocus radius is the radius of the circle of confusion in pixels, with a sign: below 0 in front
of the plane of focus, above 0 behind it. It grows with depth, so it also says which surface hides
which. A lens of focal length f and f-number N, focused at distance s, has at depth z the radius
f^2 / (2 N p (s - f)) * (1 - s / z) on pixels of pitch p. It is affine in 1 / z, so a plane in space
has a defocus radius that is affine in image coordinates. Depth that changes continuously is cut
into slices of nearly constant radius.

Everything here is in linear light, NumPy and SciPy in float32. On one core, as a worker has it, and
for a crop of 360 x 360, jitted JAX takes 1.5 times as long for a smooth field of radii and 0.8
times for a few flat layers, and compiles anew for each number of slices: see
`benchmarks/defocus_speed.py`.

Sources: M. Potmesil, I. Chakravarty, "A lens and aperture camera model for synthetic image
generation", SIGGRAPH 1981 (thin lens, circle of confusion); T. Porter, T. Duff, "Compositing
digital images", SIGGRAPH 1984 (premultiplied alpha); B. Barsky, T. Kosloff, "Algorithms for
rendering depth of field effects in computer graphics", ICCC 2008 (layers, and why the background
has to go on behind what hides it).
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Complex64, Float
from scipy import ndimage, signal

from vitdeblur_jax.data.defocus.apertures import Aperture, Half, point_image

_Map = Float[np.ndarray, "height width"]
_Image = Float[np.ndarray, "height width 3"]
_Packed = Complex64[np.ndarray, "2 rows columns"]

EDGE = 0.5  # neighbours that differ more in defocus radius, pixels, belong to different surfaces
_SLICE = 0.25  # between slices, of asinh(radius / 2): 0.5 pixels in focus, radius / 4 far off
_FEW = 16  # different radii that each become a slice of their own


class Surface(NamedTuple):
    """An opaque part of a scene.

    Attributes:
        colour: H x W x 3, linear light, any value where nothing is.
        radius: H x W, the signed defocus radius in pixels.
        present: H x W, where it is, 0 to 1.
    """

    colour: _Image
    radius: _Map
    present: _Map


def defocus(image: _Image, radius: _Map, aperture: Aperture, half: Half | None = None) -> _Image:
    """Render a sharp image out of focus.

    The image goes on beyond its borders as its mirror image, and behind what hides it by
    `surfaces_of`.

    Args:
        image: In linear light.
        radius: Signed defocus radius in pixels. Where it jumps by more than `EDGE` between
            neighbours, the smaller one hides the larger one.
        aperture: The shape of the lens's opening.
        half: The view of one half of a dual-pixel sensor instead of the whole one.
    """
    return render(surfaces_of(image, radius), aperture, half)


def render(surfaces: Sequence[Surface], aperture: Aperture, half: Half | None = None) -> _Image:
    """Render surfaces, any of which may hide another, out of focus.

    From the nearest slice to the farthest, each is blurred with alpha premultiplied and added in
    the light that those before it let pass: light / alpha of it at most (the "disjoint over"
    operator). Slices of one surface thus add up to 1 without a seam, and what is hidden shines
    through the blurred edge of what hides it. Light that no surface fills is shared among those
    that are there.

    What this leaves out is that a ray which passes an edge sees only one side of what lies behind:
    behind the edge of a blurred surface, details of another blurred one are averaged as if every
    ray could. Exact is one edge with either side in focus.
    """
    margin = math.ceil(max(np.abs(surface.radius).max() for surface in surfaces))
    surfaces = [
        Surface(*(_mirrored_beyond(part, margin) for part in surface)) for surface in surfaces
    ]
    gathered = np.zeros((2, *surfaces[0].radius.shape), np.complex64)
    for radius, (rows, columns), packed in _slices(surfaces):
        blurred = _blur(packed, point_image(aperture, radius, half))
        before = gathered[:, rows, columns]
        share = np.minimum(1, (1 - _alpha(before)) / np.maximum(_alpha(blurred), 1e-6))
        before += share * blurred
    inside = gathered[:, margin:-margin, margin:-margin] if margin else gathered
    colours = inside[0].real, inside[0].imag, inside[1].real
    return np.stack([colour / _alpha(inside) for colour in colours], axis=-1)


def surfaces_of(image: _Image, radius: _Map) -> list[Surface]:
    """Part an image into what it shows and, if there are edges, a guess of what these hide.

    The farther side of each edge goes on behind the nearer one as its own mirror image about the
    edge (in its colour at the edge where that would be another surface), at the radius that it has
    at the edge, as far as blur may show it. The nearer side ends anti-aliased, as it does in a
    image: a map's edges are steps of whole pixels.
    """
    far_side = _far_sides(radius)
    if not far_side.any():
        return [Surface(image, radius, np.ones_like(radius))]
    distance, nearest = ndimage.distance_transform_edt(~far_side, return_indices=True)
    behind = radius[tuple(nearest)]
    reach = 2 * np.abs(radius).max() + 1
    is_hidden = (behind > radius + EDGE) & (distance <= reach)
    limits = np.array(radius.shape)[:, None, None] - 1
    mirrored = np.clip(2 * nearest - np.indices(radius.shape), 0, limits)
    is_same = np.abs(radius[tuple(mirrored)] - behind) <= EDGE
    source = np.where(is_same, mirrored, nearest)
    # A straight edge takes 3 of 9 neighbours, and half of the last pixel.
    cut_away = 1.5 * ndimage.uniform_filter(far_side.astype(radius.dtype), 3)
    present = 1 - is_hidden * np.minimum(cut_away, 1)
    hidden = Surface(image[tuple(source)], behind, is_hidden.astype(radius.dtype))
    return [Surface(image, radius, present), hidden]


def _far_sides(radius: _Map) -> Bool[np.ndarray, "height width"]:
    """Mark the pixels that have a neighbour which is nearer by more than `EDGE`."""
    marked = np.zeros(radius.shape, bool)
    down, right = np.diff(radius, axis=0), np.diff(radius, axis=1)
    marked[1:] |= down > EDGE
    marked[:-1] |= down < -EDGE
    marked[:, 1:] |= right > EDGE
    marked[:, :-1] |= right < -EDGE
    return marked


def _slices(
    surfaces: Sequence[Surface],
) -> Iterator[tuple[float, tuple[slice, slice], _Packed]]:
    """Yield each slice, the nearest first: its radius, and the box that it can reach, and in it.

    What lies between two slices is part of both, in proportion, so that their alphas add up to 1.
    """
    radii = _slice_radii(surfaces)
    places = [np.interp(surface.radius, radii, np.arange(len(radii))) for surface in surfaces]
    places = [place.astype(np.float32) for place in places]
    packed = [_pack(surface) for surface in surfaces]
    for i, slice_radius in enumerate(radii):
        weights = [np.maximum(1 - np.abs(place - i), 0) for place in places]
        box = _box(np.maximum.reduce(weights) > 0, math.ceil(abs(slice_radius)))
        if box:
            parts = (
                weight[box] * pack[:, *box] for weight, pack in zip(weights, packed, strict=True)
            )
            yield float(slice_radius), box, sum(parts)


def _pack(surface: Surface) -> _Packed:
    """Return red + i green and blue + i alpha, premultiplied: a real kernel blurs two at once."""
    red, green, blue = np.moveaxis(surface.colour * surface.present[..., None], -1, 0)
    return np.stack((red + 1j * green, blue + 1j * surface.present)).astype(np.complex64)


def _alpha(packed: _Packed) -> _Map:
    return packed[1].imag


def _box(marked: Bool[np.ndarray, "height width"], margin: int) -> tuple[slice, slice] | None:
    """Return the rows and columns that hold all that is marked, and a margin around it."""
    rows, columns = (np.flatnonzero(marked.any(axis)) for axis in (1, 0))
    if not len(rows):
        return None
    return tuple(slice(max(i[0] - margin, 0), i[-1] + margin + 1) for i in (rows, columns))


def _slice_radii(surfaces: Sequence[Surface]) -> Float[np.ndarray, " slices"]:
    radii = np.unique(np.concatenate([surface.radius.ravel() for surface in surfaces]))
    if len(radii) <= _FEW:
        return radii.astype(np.float64)
    first, last = np.arcsinh(np.float64(radii[[0, -1]]) / 2)
    return 2 * np.sinh(np.linspace(first, last, math.ceil((last - first) / _SLICE) + 1))


def _blur(packed: _Packed, kernel: Float[np.ndarray, "size size"]) -> _Packed:
    if len(kernel) == 1:
        return packed
    return signal.fftconvolve(packed, kernel[None].astype(np.complex64), mode="same", axes=(1, 2))


def _mirrored_beyond(
    part: Float[np.ndarray, "height width ..."], margin: int
) -> Float[np.ndarray, "..."]:
    widths = ((margin, margin), (margin, margin)) + ((0, 0),) * (part.ndim - 2)
    return np.pad(part, widths, mode="symmetric")
