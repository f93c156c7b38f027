"""Training pairs from sharp images: a random scene and lens, defocus, camera noise and JPEG.

A scene is an image with a defocus radius for each pixel. One generator makes all draws, so the same
image, settings and seed give the same bytes.
"""

import numpy as np
from jaxtyping import Integer, UInt8

from vitdeblur_jax.data.defocus.camera import (
    add_noise,
    extend_highlights,
    through_jpeg,
)
from vitdeblur_jax.data.defocus.scenes import draw_aperture, draw_from, draw_radius_map
from vitdeblur_jax.data.defocus.settings import SynthesisSettings
from vitdeblur_jax.data.defocus.thin_lens import defocus
from vitdeblur_jax.data.srgb import linear_to_srgb

_Image = UInt8[np.ndarray, "height width 3"]


def synthesize(
    sharp: _Image,
    settings: SynthesisSettings,
    rng: np.random.Generator,
    segmentation: Integer[np.ndarray, "height width"] | None = None,
    wanted: tuple[slice, slice] | None = None,
) -> dict[str, np.ndarray]:
    """Makes a training pair from a sharp image or from a part of it.

    Args:
        sharp: An sRGB image.
        settings: The distribution of scenes, lenses and cameras.
        rng: The random generator of all draws.
        segmentation: A label for each pixel. Pixels with the same label get the same layer.
        wanted: The rows and columns to return. The scene is always drawn for the whole image, so a
            part has the same distribution of depths. Only the part and its surroundings within the
            blur radius are rendered.

    Returns:
        `blurred`, H x W x 3 uint8 (6 channels with dual pixels: left, right); `sharp`, the input;
        `radius`, H x W float32, the signed defocus radius in pixels, negative in front of the plane
        of focus.
    """
    radius = draw_radius_map(sharp, settings, rng, segmentation)
    wanted = wanted or (slice(0, sharp.shape[0]), slice(0, sharp.shape[1]))
    margin = int(np.ceil(settings.largest_radius)) + 1
    around = tuple(slice(max(part.start - margin, 0), part.stop + margin) for part in wanted)
    sharp, radius = sharp[around], radius[around]
    aperture = draw_aperture(settings, rng)
    highlights = rng.uniform(1, settings.highlight_gain)
    deviation = rng.uniform(0, settings.noise) / 255
    is_jpeg = rng.random() < settings.jpeg_share
    quality = int(rng.integers(*settings.jpeg_quality, endpoint=True))
    tone = draw_from(settings.tone, rng)
    corner = around[0].start, around[1].start
    light = extend_highlights(sharp, highlights) ** tone
    views = []
    for half in ("left", "right") if settings.dual_pixel else (None,):
        view = np.maximum(defocus(light, radius, aperture, half), 0) ** (1 / tone)
        view = add_noise(view, deviation, rng)
        view = np.rint(255 * linear_to_srgb(np.clip(view, 0, 1))).astype(np.uint8)
        views.append(through_jpeg(view, quality, corner) if is_jpeg else view)
    pair = {"blurred": np.concatenate(views, axis=-1), "sharp": sharp, "radius": radius}
    inside = tuple(
        slice(part.start - whole.start, part.stop - whole.start)
        for part, whole in zip(wanted, around, strict=True)
    )
    return {key: value[inside] for key, value in pair.items()}
