"""Random scenes and lenses: a defocus radius for each pixel, and an aperture."""

import numpy as np
from jaxtyping import Float, Float32, Integer, UInt8
from PIL import Image
from scipy import fft, ndimage

from vitdeblur_jax.data.defocus.apertures import Aperture, cat_eye, disk, polygon
from vitdeblur_jax.data.defocus.settings import SynthesisSettings

_Image = UInt8[np.ndarray, "height width 3"]
_Map = Float32[np.ndarray, "height width"]

COARSE = 4  # pixels per value and axis of a scene's smooth fields
HALF_WAVES = 80, 320  # pixels, of smooth fields
COVERED = 0.4, 0.85  # quantile of the field above which a layer covers the ones behind it
OFFSETS = 0.2, 0.9  # of the disks of a cat's eye
BLADES = 5, 9  # of polygons
TILT = 0.5  # largest change of radius across a tilted plane, of the largest usual radius


def draw_radius_map(
    sharp: _Image,
    settings: SynthesisSettings,
    rng: np.random.Generator,
    segmentation: Integer[np.ndarray, "height width"] | None = None,
) -> _Map:
    """Draws a scene: the signed defocus radius of each pixel; see `synthesize`."""
    if rng.random() < settings.smooth_share:
        first, last = _draw_radius(settings, rng), _draw_radius(settings, rng)
        field = _enlarged(_smooth_field(sharp.shape[:2], rng), sharp.shape[:2])
        return (first + (last - first) * field).astype(np.float32)
    count = int(rng.integers(1, settings.most_layers, endpoint=True))
    if segmentation is None:
        layers = _draw_layers(sharp, count, rng)
    else:
        labels, indices = np.unique(segmentation, return_inverse=True)
        layers = rng.integers(count, size=len(labels))[indices]
    # The farthest layer comes first, so that nearer layers cover it.
    bases = sorted((_draw_radius(settings, rng) for _ in range(count)), reverse=True)
    radius = np.zeros(layers.shape, np.float32)
    for layer, base in enumerate(bases):
        plane = base + _draw_tilt(settings, rng, layers.shape)
        radius = np.where(layers == layer, plane, radius)
    return np.clip(radius, -settings.largest_radius, settings.largest_radius).astype(np.float32)


def draw_aperture(settings: SynthesisSettings, rng: np.random.Generator) -> Aperture:
    """Draws an aperture."""
    kind, angle, offset = rng.random(), rng.uniform(0, 2 * np.pi), rng.uniform(*OFFSETS)
    blades = int(rng.integers(*BLADES, endpoint=True))
    if kind < settings.disk_share:
        aperture = disk()
    elif kind < settings.disk_share + settings.polygon_share:
        aperture = polygon(blades, angle)
    else:
        aperture = cat_eye(offset, angle)
    return aperture._replace(falloff=draw_from(settings.falloff, rng))


def draw_from(interval: tuple[float, float], rng: np.random.Generator) -> float:
    """Draws a number. If both ends of the interval are equal, the generator stays as it is."""
    low, high = interval
    return low if low == high else float(rng.uniform(low, high))


def _draw_radius(settings: SynthesisSettings, rng: np.random.Generator) -> float:
    kind, place, sign = rng.random(), rng.random(), rng.choice((-1, 1))
    low, high = settings.usual_radius
    if kind < settings.focused_share:
        low, high = 0, low
    elif kind < settings.focused_share + settings.large_share:
        low, high = high, settings.largest_radius
    return float(sign * (low + place * (high - low)))


def _draw_tilt(
    settings: SynthesisSettings, rng: np.random.Generator, shape: tuple[int, int]
) -> Float[np.ndarray, "height width"] | float:
    """Draws the tilt of a plane as a map of defocus radii; half of the planes have no tilt."""
    is_tilted, slopes = rng.random() < 0.5, rng.uniform(-TILT, TILT, 2) * settings.usual_radius[1]
    if not is_tilted:
        return 0.0
    y, x = (np.linspace(-0.5, 0.5, side, dtype=np.float32) for side in shape)
    return slopes[0] * y[:, None] + slopes[1] * x


def _draw_layers(
    sharp: _Image, count: int, rng: np.random.Generator
) -> Integer[np.ndarray, "height width"]:
    """Draws a layer for each pixel. Its boundaries partly follow those of the image."""
    layers = np.zeros(sharp.shape[:2], np.int64)
    coarse = np.asarray(Image.fromarray(sharp).reduce(COARSE), np.float32)
    for layer in range(1, count):
        colors = coarse @ rng.standard_normal(3).astype(np.float32)
        colors = ndimage.gaussian_filter(colors, 4 / COARSE)
        field = 0.1 * (colors - colors.mean()) / (colors.std() + 1e-3)
        field += _smooth_field(layers.shape, rng)
        threshold = np.quantile(field, rng.uniform(*COVERED))
        layers[_enlarged(field, layers.shape) > threshold] = layer
    return layers


def _smooth_field(
    shape: tuple[int, int], rng: np.random.Generator
) -> Float[np.ndarray, "coarse_height coarse_width"]:
    """Draws a coarse field from 0 to 1 with wavelengths of a few hundred pixels or more."""
    half_wave = rng.uniform(*HALF_WAVES)
    coefficients = np.zeros([-(-side // COARSE) for side in shape], np.float32)
    lowest = tuple(slice(int(side / half_wave) + 2) for side in shape)
    coefficients[lowest] = rng.standard_normal(coefficients[lowest].shape)
    field = fft.idctn(coefficients)
    return (field - field.min()) / np.maximum(np.ptp(field), 1e-6)


def _enlarged(
    field: Float[np.ndarray, "coarse_height coarse_width"], shape: tuple[int, int]
) -> _Map:
    """Upsamples a coarse field bilinearly by `COARSE`."""
    height, width = shape
    box = (0, 0, width / COARSE, height / COARSE)
    coarse = Image.fromarray(field.astype(np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BILINEAR, box=box))
