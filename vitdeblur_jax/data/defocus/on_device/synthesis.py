"""Training pairs from sharp images on the device: random scene and lens, defocus, noise and JPEG.

The distributions are those of `vitdeblur_jax.data.defocus.synthesis`; the draws are not. One key
makes all draws.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt8

from vitdeblur_jax.data.defocus.on_device.camera import add_noise, extend_highlights, through_jpeg
from vitdeblur_jax.data.defocus.on_device.scenes import (
    Window,
    draw_aperture,
    draw_from,
    draw_radius_map,
)
from vitdeblur_jax.data.defocus.on_device.surfaces import surfaces_of
from vitdeblur_jax.data.defocus.on_device.thin_lens import render
from vitdeblur_jax.data.defocus.scenes import COARSE
from vitdeblur_jax.data.defocus.settings import SynthesisSettings
from vitdeblur_jax.data.srgb import linear_to_srgb

_Key = Key[Array, ""]
_Light = Float[Array, "height width 3"]


class Synthetic(NamedTuple):
    """A synthetic pair.

    Attributes:
        blurred: sRGB; with dual pixels 6 channels, left and right.
        sharp: sRGB.
        radius: Signed defocus radius in pixels, negative in front of the plane of focus.
    """

    blurred: UInt8[Array, "height width channels"]
    sharp: UInt8[Array, "height width 3"]
    radius: Float[Array, "height width"]


def synthesize(
    key: _Key,
    sharp: _Light,
    settings: SynthesisSettings,
    corner: Int[Array, "2"] | tuple[int, int] = (0, 0),
    shape: tuple[int, int] | None = None,
) -> Synthetic:
    """Makes a training pair from a sharp image, or from a part of it.

    A pure function, to be jitted and vmapped with constant `settings` and `shape`.

    Args:
        key: Random key of all draws.
        sharp: Linear light in [0, 1]; the scene.
        settings: The distribution of scenes, lenses and cameras.
        corner: Row and column of the part to return.
        shape: Height and width of the part; None: the whole image. The scene is always drawn for
            the whole image. Only the part and its surroundings within the blur radius are rendered.
    """
    shape = shape or sharp.shape[:2]
    scene_key, aperture_key, camera_key = jax.random.split(key, 3)
    margin = math.ceil(settings.largest_radius)
    window = Window(
        *(
            _mirrored(start - margin + jnp.arange(length + 2 * margin), side)
            for start, length, side in zip(corner, shape, sharp.shape[:2], strict=True)
        )
    )
    radius = draw_radius_map(scene_key, _reduced(sharp), settings, sharp.shape[:2], window)
    light = sharp[window.rows][:, window.columns]
    inside = tuple(slice(margin, margin + length) for length in shape)
    aperture = draw_aperture(aperture_key, settings)
    blurred = _captured(camera_key, light, radius, aperture, settings, corner)
    return Synthetic(blurred, _eight_bits(light[inside]), radius[inside])


def _captured(key, light, radius, aperture, settings: SynthesisSettings, corner) -> Array:
    """Returns the views of a scene, without its margin, through a random camera."""
    keys = jax.random.split(key, 6)
    if settings.highlight_gain > 1:
        gain = jax.random.uniform(keys[0], minval=1, maxval=settings.highlight_gain)
        light = extend_highlights(light, gain)
    halves = ("left", "right") if settings.dual_pixel else (None,)
    tone = draw_from(keys[5], settings.tone)
    surfaces = surfaces_of(light**tone, radius, settings.largest_radius)
    blurred = render(surfaces, aperture, settings.largest_radius, halves)
    blurred = jnp.maximum(blurred, 0) ** (1 / tone)
    if settings.noise:
        deviation = jax.random.uniform(keys[1], maxval=settings.noise / 255)
        blurred = add_noise(keys[2], blurred, deviation)
    blurred = _eight_bits(blurred)
    if not settings.jpeg_share:
        return blurred
    low, high = settings.jpeg_quality
    quality = jax.random.randint(keys[3], (), low, high + 1)

    def compressed():
        views = jnp.split(blurred, len(halves), axis=-1)
        return jnp.concatenate([through_jpeg(view, quality, corner) for view in views], axis=-1)

    is_jpeg = jax.random.uniform(keys[4]) < settings.jpeg_share
    return jax.lax.cond(is_jpeg, compressed, lambda: blurred)


def _mirrored(numbers: Int[Array, " n"], side: int) -> Int[Array, " n"]:
    """Returns the pixels that an image mirrored at its borders has at these places."""
    numbers = numbers % (2 * side)
    return jnp.minimum(numbers, 2 * side - 1 - numbers)


def _reduced(sharp: _Light) -> Float[Array, "coarse_height coarse_width 3"]:
    """Returns the image averaged over `COARSE` x `COARSE` pixels, in sRGB."""
    padding = [(0, -side % COARSE) for side in sharp.shape[:2]]
    sharp = jnp.pad(sharp, (*padding, (0, 0)), mode="edge")
    height, width, _ = sharp.shape
    blocks = sharp.reshape(height // COARSE, COARSE, width // COARSE, COARSE, 3)
    return linear_to_srgb(blocks.mean((1, 3)))


def _eight_bits(light: Float[Array, "height width channels"]) -> Array:
    return jnp.round(255 * linear_to_srgb(jnp.clip(light, 0, 1))).astype(jnp.uint8)
