"""Random scenes and lenses on the device: the distributions of `vitdeblur_jax.data.defocus.scenes`.

Fields have a value for each `COARSE` x `COARSE` pixels of the whole scene. Radii are computed only
for the rows and columns that are wanted.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from vitdeblur_jax.data.defocus.on_device.apertures import Aperture
from vitdeblur_jax.data.defocus.scenes import BLADES, COARSE, COVERED, HALF_WAVES, OFFSETS, TILT
from vitdeblur_jax.data.defocus.settings import SynthesisSettings

_Key = Key[Array, ""]
_Field = Float[Array, "coarse_height coarse_width"]
_Map = Float[Array, "height width"]

_EXACT = jax.lax.Precision.HIGHEST


class Window(NamedTuple):
    """The part of a scene to draw.

    Attributes:
        rows: Their numbers in the scene.
        columns: Their numbers in the scene.
    """

    rows: Int[Array, " height"]
    columns: Int[Array, " width"]


def draw_aperture(key: _Key, settings: SynthesisSettings) -> Aperture:
    """Draws an aperture."""
    keys = jax.random.split(key, 5)
    kind = jax.random.uniform(keys[0])
    is_disk = kind < settings.disk_share
    is_polygon = ~is_disk & (kind < settings.disk_share + settings.polygon_share)
    offset = jax.random.uniform(keys[1], minval=OFFSETS[0], maxval=OFFSETS[1])
    return Aperture(
        blades=jnp.where(is_polygon, jax.random.randint(keys[2], (), BLADES[0], BLADES[1] + 1), 0),
        angle=jax.random.uniform(keys[3], maxval=2 * np.pi),
        offset=jnp.where(is_disk | is_polygon, 0, offset),
        falloff=draw_from(keys[4], settings.falloff),
    )


def draw_from(key: _Key, interval: tuple[float, float]) -> Float[Array, ""] | float:
    """Draws a number, or returns the ends of the interval if they are equal."""
    low, high = interval
    return low if low == high else jax.random.uniform(key, minval=low, maxval=high)


def draw_radius_map(
    key: _Key,
    colors: Float[Array, "coarse_height coarse_width 3"],
    settings: SynthesisSettings,
    shape: tuple[int, int],
    window: Window,
) -> _Map:
    """Draws a scene: the signed defocus radius of each pixel of a window.

    Args:
        key: Random key.
        colors: The scene's image in sRGB, averaged over `COARSE` x `COARSE` pixels.
        settings: The distribution of scenes.
        shape: Height and width of the scene.
        window: The part to draw.
    """
    which, key = jax.random.split(key)

    def smooth(key):
        ends_key, field_key = jax.random.split(key)
        first, last = draw_radii(ends_key, 2, settings)
        return first + (last - first) * _enlarged(_smooth_field(field_key, shape), window)

    def layered(key):
        return _draw_layered(key, colors, settings, shape, window)

    is_smooth = jax.random.uniform(which) < settings.smooth_share
    radius = jax.lax.cond(is_smooth, smooth, layered, key)
    return jnp.clip(radius, -settings.largest_radius, settings.largest_radius)


def draw_radii(key: _Key, count: int, settings: SynthesisSettings) -> Float[Array, " count"]:
    """Draws signed defocus radii in pixels."""
    kind, place, sign = jax.random.uniform(key, (3, count))
    low, high = settings.usual_radius
    is_focused = kind < settings.focused_share
    is_large = ~is_focused & (kind < settings.focused_share + settings.large_share)
    start = jnp.where(is_focused, 0.0, jnp.where(is_large, high, low))
    end = jnp.where(is_focused, low, jnp.where(is_large, settings.largest_radius, high))
    return jnp.where(sign < 0.5, -1, 1) * (start + place * (end - start))


def _draw_layered(key, colors, settings, shape, window) -> _Map:
    most = settings.most_layers
    count_key, base_key, tilt_key, layers_key = jax.random.split(key, 4)
    count = jax.random.randint(count_key, (), 1, most + 1)
    bases = draw_radii(base_key, most, settings)
    # The farthest layer comes first, so that nearer layers cover it.
    bases = jnp.sort(jnp.where(jnp.arange(most) < count, bases, -jnp.inf), descending=True)
    layers = jnp.zeros((len(window.rows), len(window.columns)), jnp.int32)

    def cover(layers, numbered):
        layer, key = numbered
        return jax.lax.cond(
            layer < count,
            lambda: jnp.where(_is_covered(key, colors, shape, window), layer, layers),
            lambda: layers,
        ), None

    if most > 1:
        numbered = jnp.arange(1, most), jax.random.split(layers_key, most - 1)
        layers, _ = jax.lax.scan(cover, layers, numbered)
    slopes = _draw_tilts(tilt_key, settings)[layers]
    y, x = (
        numbers / max(side - 1, 1) - 0.5
        for numbers, side in zip((window.rows, window.columns), shape, strict=True)
    )
    return bases[layers] + slopes[..., 0] * y[:, None] + slopes[..., 1] * x


def _draw_tilts(key: _Key, settings: SynthesisSettings) -> Float[Array, "layers 2"]:
    """Draws the change of radius down and across the scene; half of the planes have no tilt."""
    is_tilted, slopes = jax.random.split(key)
    is_tilted = jax.random.bernoulli(is_tilted, 0.5, (settings.most_layers, 1))
    slopes = jax.random.uniform(slopes, (settings.most_layers, 2), minval=-TILT, maxval=TILT)
    return jnp.where(is_tilted, slopes * settings.usual_radius[1], 0)


def _is_covered(key, colors, shape, window) -> Array:
    """Draws which pixels a layer covers. Its boundary partly follows those of the image."""
    mix_key, field_key, threshold_key = jax.random.split(key, 3)
    mixed = jnp.dot(255 * colors, jax.random.normal(mix_key, (3,)), precision=_EXACT)
    mixed = _smoothed(mixed)
    field = 0.1 * (mixed - mixed.mean()) / (mixed.std() + 1e-3) + _smooth_field(field_key, shape)
    level = jax.random.uniform(threshold_key, minval=COVERED[0], maxval=COVERED[1])
    return _enlarged(field, window) > jnp.quantile(field, level)


def _smoothed(field: _Field) -> _Field:
    """Returns a field after a Gaussian filter of `4 / COARSE` values."""
    sigma = 4 / COARSE
    reach = int(4 * sigma + 0.5)
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    taps /= taps.sum()
    for axis, length in enumerate(field.shape):
        widths = [(reach, reach) if axis == other else (0, 0) for other in (0, 1)]
        wide = jnp.pad(field, widths, mode="symmetric")
        field = sum(
            float(tap) * jax.lax.slice_in_dim(wide, start, start + length, axis=axis)
            for start, tap in enumerate(taps)
        )
    return field


def _smooth_field(key: _Key, shape: tuple[int, int]) -> _Field:
    """Draws a coarse field from 0 to 1 with wavelengths of a few hundred pixels or more."""
    wave_key, key = jax.random.split(key)
    half_wave = jax.random.uniform(wave_key, minval=HALF_WAVES[0], maxval=HALF_WAVES[1])
    bases, are_used = [], []
    for side in shape:
        length = -(-side // COARSE)
        numbers = np.arange(min(int(side / HALF_WAVES[0]) + 2, length))
        cosines = np.cos(np.pi * numbers * (2 * np.arange(length)[:, None] + 1) / (2 * length))
        bases.append((cosines * np.where(numbers, 2, 1)).astype(np.float32))
        are_used.append(numbers < jnp.floor(side / half_wave) + 2)
    coefficients = jax.random.normal(key, [basis.shape[1] for basis in bases])
    coefficients = jnp.where(are_used[0][:, None] & are_used[1], coefficients, 0)
    field = jnp.linalg.multi_dot((bases[0], coefficients, bases[1].T), precision=_EXACT)
    return (field - field.min()) / jnp.maximum(field.max() - field.min(), 1e-6)


def _enlarged(field: _Field, window: Window) -> _Map:
    """Upsamples a coarse field bilinearly by `COARSE`, at the pixels of a window."""
    for axis, numbers in enumerate(window):
        places = jnp.clip((numbers + 0.5) / COARSE - 0.5, 0, field.shape[axis] - 1)
        before = jnp.floor(places).astype(jnp.int32)
        share = jnp.expand_dims(places - before, 1 - axis)
        after = jnp.minimum(before + 1, field.shape[axis] - 1)
        field = (1 - share) * field.take(before, axis) + share * field.take(after, axis)
    return field
