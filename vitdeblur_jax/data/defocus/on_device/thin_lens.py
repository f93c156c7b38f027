"""Thin-lens defocus as in `vitdeblur_jax.data.defocus.thin_lens`, jitted, vmapped, differentiable.

The physics, the slices and the sampling are those of the NumPy code; results agree up to rounding
and to the choice between equally near pixels behind an edge. Shapes are fixed: the number of slices
is the largest that the largest radius allows, and slices that a scene lacks are skipped. (Under
`jax.vmap` they are computed with a weight of 0.)
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from scipy.fft import next_fast_len

from vitdeblur_jax.data.defocus.apertures import Half
from vitdeblur_jax.data.defocus.on_device.apertures import Aperture, point_image
from vitdeblur_jax.data.defocus.on_device.surfaces import Image, Map, Surfaces, surfaces_of
from vitdeblur_jax.data.defocus.thin_lens import FEW_RADII, SLICE_STEP

Views = Float[Array, "inner_height inner_width channels"]


def defocus(
    image: Image,
    radius: Map,
    aperture: Aperture,
    *,
    largest_radius: float,
    halves: Sequence[Half | None] = (None,),
) -> Views:
    """Renders a sharp image with defocus blur.

    Differentiable with respect to the image, and to the radius except where the scene changes: at
    edges, and where a pixel joins or leaves a flat layer. The radius of a whole layer, or a change
    of a smooth field, has an exact derivative.

    Args:
        image: Linear light.
        radius: Signed defocus radius in pixels, clipped to `largest_radius`. If two neighbors
            differ by more than `EDGE`, the one with the smaller radius occludes the other.
        aperture: The shape of the aperture.
        largest_radius: Bound of the absolute radius; a constant of the compiled program.
        halves: The views to render: those of these halves of a dual-pixel sensor. None renders the
            whole aperture.

    Returns:
        Height x width x 3 channels for each view.
    """
    radius = jnp.clip(radius, -largest_radius, largest_radius)
    surfaces = surfaces_of(image, radius, largest_radius)
    margin = math.ceil(largest_radius)
    around = jax.tree.map(
        lambda part: jnp.pad(
            part, ((0, 0), (margin, margin), (margin, margin), (0, 0))[: part.ndim], "symmetric"
        ),
        surfaces,
    )
    return render(around, aperture, largest_radius, halves)


class _Slice(NamedTuple):
    """A slice of nearly constant radius, between its neighbors.

    Attributes:
        radius: Signed defocus radius of the slice in pixels.
        before: The previous slice's radius; minus infinity for the first.
        after: The next slice's radius; infinity for the last.
        is_used: Whether the scene has this slice.
    """

    radius: Float[Array, "..."]
    before: Float[Array, "..."]
    after: Float[Array, "..."]
    is_used: Bool[Array, "..."]


def render(
    surfaces: Surfaces, aperture: Aperture, largest_radius: float, halves: Sequence[Half | None]
) -> Views:
    """Renders the inside of surfaces, without a margin of `ceil(largest_radius)` on all sides.

    See the NumPy function of the same name.

    Args:
        surfaces: The surfaces, with their margin.
        aperture: The shape of the aperture.
        largest_radius: Bound of the absolute radius.
        halves: The views to render, three channels each.
    """
    margin = math.ceil(largest_radius)
    present = surfaces.present[..., None]
    packed = jnp.concatenate((surfaces.color * present, present), axis=-1)
    packed = jnp.moveaxis(packed, -1, 1)
    inner = [side - 2 * margin for side in packed.shape[2:]]

    def add(gathered, part: _Slice):
        weights = _weights(surfaces.radius, part)
        # A Python sum: XLA's sum over this axis takes 8 times as long on a CPU.
        slice_ = sum(weight * pack for weight, pack in zip(weights, packed, strict=True))
        kernels = [point_image(aperture, part.radius, largest_radius, half) for half in halves]
        blurred = _blur(slice_, jnp.stack(kernels), margin)
        share = (1 - gathered[:, 3:]) / jnp.maximum(blurred[:, 3:], 1e-6)
        return gathered + jnp.minimum(1, share) * blurred

    def add_used(gathered, part: _Slice):
        return jax.lax.cond(part.is_used, add, lambda gathered, _: gathered, gathered, part), None

    start = jnp.zeros((len(halves), 4, *inner), packed.dtype)
    gathered, _ = jax.lax.scan(add_used, start, _slices(surfaces.radius, largest_radius))
    colors = gathered[:, :3] / gathered[:, 3:]
    return jnp.moveaxis(colors.reshape(-1, *inner), 0, -1)


def _slices(radius: Float[Array, "surfaces height width"], largest_radius: float) -> _Slice:
    """Returns the slices of a scene, nearest first; all fields have an axis of slices."""
    most = math.ceil(2 * math.asinh(largest_radius / 2) / SLICE_STEP) + 1
    few, few_used, are_all = _distinct_radii(radius)
    first, last = jnp.arcsinh(radius.min() / 2), jnp.arcsinh(radius.max() / 2)
    count = jnp.clip(jnp.ceil((last - first) / SLICE_STEP) + 1, 2, max(most, 2))
    number = np.arange(max(most, FEW_RADII))
    ladder = 2 * jnp.sinh(first + (last - first) * jnp.minimum(number / (count - 1), 1))
    widths = (0, len(number) - FEW_RADII)
    radii = jnp.where(are_all, jnp.pad(few, widths), ladder)
    is_used = jnp.where(are_all, jnp.pad(few_used, widths), number < count)
    before = jnp.concatenate((jnp.array([-jnp.inf]), radii[:-1]))
    after = jnp.concatenate((radii[1:], jnp.array([jnp.inf])))
    has_next = jnp.concatenate((is_used[1:], jnp.array([False])))
    return _Slice(radii, before, jnp.where(has_next, after, jnp.inf), is_used)


def _distinct_radii(
    radius: Float[Array, "..."],
) -> tuple[Float[Array, " few"], Bool[Array, " few"], Bool[Array, ""]]:
    """Returns the smallest distinct radii, which of them exist, and whether they are all."""

    def above(last, _):
        following = jnp.where(radius > last, radius, jnp.inf).min()
        return following, following

    _, radii = jax.lax.scan(above, jnp.array(-jnp.inf, radius.dtype), None, length=FEW_RADII + 1)
    exists = jnp.isfinite(radii)
    return jnp.where(exists, radii, 0)[:-1], exists[:-1], ~exists[-1]


def _weights(radius: Float[Array, "surfaces height width"], part: _Slice) -> Float[Array, "..."]:
    """Returns each pixel's share of a slice: 1 at its radius, 0 at those of its neighbors."""

    def share(neighbor):
        """Returns the position between a neighbor and the slice, 1 if there is no neighbor."""
        is_there = jnp.isfinite(neighbor)
        distance = jnp.where(is_there, part.radius - neighbor, 1)
        distance = jnp.where(distance == 0, 1, distance)  # of slices that are not used
        return jnp.where(is_there, (radius - jnp.where(is_there, neighbor, 0)) / distance, 1)

    return jnp.clip(jnp.minimum(share(part.before), share(part.after)), 0, 1)


def _blur(
    channels: Float[Array, "channels height width"],
    kernels: Float[Array, "views size size"],
    margin: int,
) -> Float[Array, "views channels inner_height inner_width"]:
    """Convolves all channels with each kernel, and cuts the margin off."""
    height, width = channels.shape[1:]
    reach = kernels.shape[-1] // 2
    if reach == 0:
        inside = channels[:, margin : height - margin, margin : width - margin]
        return jnp.broadcast_to(inside, (len(kernels), *inside.shape))
    size = [2 * next_fast_len((side + 1) // 2, real=True) for side in (height, width)]
    spectrum = jnp.fft.rfft2(channels, size) * jnp.fft.rfft2(kernels, size)[:, None]
    blurred = jnp.fft.irfft2(spectrum, size)  # what wraps around lies in the margin
    start, (rows, columns) = margin + reach, (height - 2 * margin, width - 2 * margin)
    return blurred[..., start : start + rows, start : start + columns]
