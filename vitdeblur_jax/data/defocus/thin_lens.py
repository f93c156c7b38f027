"""Thin-lens defocus: render a sharp image with a defocus radius for each pixel.

The defocus radius is the radius of the circle of confusion in pixels. It is negative in front of
the plane of focus and positive behind it. It grows with depth, so it also determines occlusion. A
lens with focal length f and f-number N, focused at distance s, has the radius
f^2 / (2 N p (s - f)) * (1 - s / z) at depth z, for a pixel pitch p. The radius is affine in 1 / z,
so for a plane in space it is affine in image coordinates. Continuous depth is split into slices of
nearly constant radius.

All images are in linear light. The code uses NumPy and SciPy in float32, for data workers of one
core. `vitdeblur_jax.data.defocus.on_device` does the same on the devices, where the pairs need no
worker; `benchmarks/defocus_speed.py` compares their speed.

Sources: M. Potmesil, I. Chakravarty, "A lens and aperture camera model for synthetic image
generation", SIGGRAPH 1981 (thin lens, circle of confusion); T. Porter, T. Duff, "Compositing
digital images", SIGGRAPH 1984 (premultiplied alpha); B. Barsky, T. Kosloff, "Algorithms for
rendering depth of field effects in computer graphics", ICCC 2008 (layers, and why the background
must be extended behind the foreground).
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Complex64, Float
from scipy import ndimage

from vitdeblur_jax.data.defocus.apertures import Aperture, Half, point_image

_Map = Float[np.ndarray, "height width"]
_Image = Float[np.ndarray, "height width 3"]
_Packed = Complex64[np.ndarray, "2 rows columns"]

EDGE = 0.5  # pixels; neighbors with a larger difference in radius belong to different surfaces
SLICE_STEP = 0.25  # step of asinh(radius / 2): 0.5 pixels in focus, radius / 4 for large radii
FEW_RADII = 16  # up to this many distinct radii, each is a slice


class Surface(NamedTuple):
    """An opaque part of a scene.

    Attributes:
        color: H x W x 3, linear light. Values outside the surface are arbitrary.
        radius: H x W, the signed defocus radius in pixels.
        present: H x W, the coverage by the surface, 0 to 1.
    """

    color: _Image
    radius: _Map
    present: _Map


def defocus(image: _Image, radius: _Map, aperture: Aperture, half: Half | None = None) -> _Image:
    """Renders a sharp image with defocus blur.

    The image is extended by reflection at its borders. `surfaces_of` extends the background behind
    the foreground.

    Args:
        image: Linear light.
        radius: Signed defocus radius in pixels. If two neighbors differ by more than `EDGE`, the
            one with the smaller radius occludes the other.
        aperture: The shape of the aperture.
        half: Render the view of this half of a dual-pixel sensor. None renders the whole aperture.
    """
    return render(surfaces_of(image, radius), aperture, half)


def render(surfaces: Sequence[Surface], aperture: Aperture, half: Half | None = None) -> _Image:
    """Renders surfaces that may occlude each other with defocus blur.

    The slices are processed from the nearest to the farthest. Each slice is blurred with
    premultiplied alpha and composited behind the previous ones by the "disjoint over" operator: its
    alpha is limited to the remaining transparency. The slices of one surface therefore add up to an
    alpha of 1 without a seam, and the background is visible through the blurred edge of the
    foreground. The result is divided by the total alpha.

    The model is exact for one edge if either side is in focus. It is an approximation for a blurred
    surface behind a blurred edge: all rays contribute to its blur, including those that the edge
    would block.
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
    colors = inside[0].real, inside[0].imag, inside[1].real
    return np.stack([color / _alpha(inside) for color in colors], axis=-1)


def surfaces_of(image: _Image, radius: _Map) -> list[Surface]:
    """Splits an image into its visible surface and, if it has edges, an estimated hidden surface.

    The hidden surface extends the farther side of each edge behind the nearer side, as far as blur
    can reveal it. It mirrors the farther side at the edge, or repeats the color at the edge where
    the mirrored pixel belongs to another surface. Its radius is that of the farther side at the
    edge. The boundary of the nearer side is anti-aliased like an edge in an image, because edges in
    the radius map are steps between whole pixels.
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
    # At a straight edge, 3 of 9 neighbors are on the far side; half of the last pixel is removed.
    cut_away = 1.5 * ndimage.uniform_filter(far_side.astype(radius.dtype), 3)
    present = 1 - is_hidden * np.minimum(cut_away, 1)
    hidden = Surface(image[tuple(source)], behind, is_hidden.astype(radius.dtype))
    return [Surface(image, radius, present), hidden]


def _far_sides(radius: _Map) -> Bool[np.ndarray, "height width"]:
    """Marks the pixels with a neighbor whose radius is smaller by more than `EDGE`."""
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
    """Yields the radius, the bounding box after blur, and the pixels of each slice, nearest first.

    Pixels between two slices are split between them in proportion, so the alphas add up to 1.
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
    """Returns red + i green and blue + i alpha, premultiplied.

    A convolution with a real kernel then blurs two channels at once.
    """
    red, green, blue = np.moveaxis(surface.color * surface.present[..., None], -1, 0)
    return np.stack((red + 1j * green, blue + 1j * surface.present)).astype(np.complex64)


def _alpha(packed: _Packed) -> _Map:
    return packed[1].imag


def _box(marked: Bool[np.ndarray, "height width"], margin: int) -> tuple[slice, slice] | None:
    """Returns the rows and columns of the bounding box of marked pixels with a margin."""
    rows, columns = (np.flatnonzero(marked.any(axis)) for axis in (1, 0))
    if not len(rows):
        return None
    return tuple(slice(max(i[0] - margin, 0), i[-1] + margin + 1) for i in (rows, columns))


def _slice_radii(surfaces: Sequence[Surface]) -> Float[np.ndarray, " slices"]:
    radii = np.unique(np.concatenate([surface.radius.ravel() for surface in surfaces]))
    if len(radii) <= FEW_RADII:
        return radii.astype(np.float64)
    first, last = np.arcsinh(np.float64(radii[[0, -1]]) / 2)
    return 2 * np.sinh(np.linspace(first, last, math.ceil((last - first) / SLICE_STEP) + 1))


def _blur(packed: _Packed, kernel: Float[np.ndarray, "size size"]) -> _Packed:
    if len(kernel) == 1:
        return packed
    from scipy import signal  # imported late: training needs only what else is here

    return signal.fftconvolve(packed, kernel[None].astype(np.complex64), mode="same", axes=(1, 2))


def _mirrored_beyond(
    part: Float[np.ndarray, "height width ..."], margin: int
) -> Float[np.ndarray, "..."]:
    widths = ((margin, margin), (margin, margin)) + ((0, 0),) * (part.ndim - 2)
    return np.pad(part, widths, mode="symmetric")
