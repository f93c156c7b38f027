"""Training pairs from sharp images: draw a scene and a lens, defocus, record as a camera does.

A scene is one image with a blur radius for each of its pixels. Everything is drawn from one
random generator: the same image, settings and seed give the same bytes.
"""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Integer, UInt8
from PIL import Image
from scipy import fft, ndimage

from vitdeblur_jax.data.apertures import Aperture, cat_eye, disk, polygon
from vitdeblur_jax.data.defocus import defocus
from vitdeblur_jax.utils.config_checks import check_values, flag, integer, number, sequence
from vitdeblur_jax.utils.errors import UserError

_Image = UInt8[np.ndarray, "height width 3"]
_Map = Float32[np.ndarray, "height width"]
_Light = Float[np.ndarray, "..."]

_MIDDLE_GRAY = 0.2140  # in linear light; 0.5 in sRGB, where that rises by 1.08 per unit of light
_SLOPE_AT_MIDDLE_GRAY = 1.08
_READ_VARIANCE = 0.01  # of the noise's variance at middle gray; the rest is shot noise
_CLIPPED = 250  # of 255: channels above it have probably lost light
_COARSE = 4  # pixels a side of each value of a scene's smooth fields


@dataclass(frozen=True)
class SynthesisSettings:
    """How scenes, lenses and cameras are drawn. The defaults follow real pairs of images.

    Attributes:
        smooth_share: Of the scenes, those with one smooth field of radii; the others have layers.
        most_layers: A layered scene has 1 to this many, each a plane, facing the camera or not.
        usual_radius: Blur radii in pixels, most of them drawn evenly from here.
        largest_radius: The limit of what is larger than usual.
        focused_share: Of the radii, those below the usual ones.
        large_share: Of the radii, those above the usual ones.
        disk_share: Of the lenses, those wide open.
        polygon_share: Of the lenses, those stopped down to 5 to 9 blades. The rest are cat's eyes.
        dual_pixel: The left and the right view (6 channels) instead of the whole one.
        highlight_gain: What has lost its light to clipping is made up to this many times as bright
            before it is blurred; 1 leaves it.
        noise: Largest standard deviation at middle gray, in steps of 8 bits: read and shot noise.
        jpeg_share: Of the blurred images, those that have been a JPEG file.
        jpeg_quality: Lowest and highest quality of these.
    """

    smooth_share: float = 0.35
    most_layers: int = 4
    usual_radius: tuple[float, float] = (0.5, 8.0)
    largest_radius: float = 12.0
    focused_share: float = 0.1
    large_share: float = 0.1
    disk_share: float = 0.6
    polygon_share: float = 0.2
    dual_pixel: bool = False
    highlight_gain: float = 1.0
    noise: float = 2.0
    jpeg_share: float = 0.15
    jpeg_quality: tuple[int, int] = (85, 97)

    def __post_init__(self):
        """Refuse settings that cannot be.

        Raises:
            UserError: Names the setting.
        """
        check_settings(self)


RULES = {
    "smooth_share": number(0, 1),
    "most_layers": integer(1, 64),
    "usual_radius": sequence(number(0, 256), length=2),
    "largest_radius": number(0, 256),
    "focused_share": number(0, 1),
    "large_share": number(0, 1),
    "disk_share": number(0, 1),
    "polygon_share": number(0, 1),
    "dual_pixel": flag(),
    "highlight_gain": number(1, 1e6),
    "noise": number(0, 255),
    "jpeg_share": number(0, 1),
    "jpeg_quality": sequence(integer(1, 100), length=2),
}


def check_settings(settings: Any, prefix: str = "") -> None:
    """Check the settings of a synthesis, each by its rule and then together.

    Args:
        settings: Has the attributes of `SynthesisSettings`.
        prefix: Of the names in the message.

    Raises:
        UserError: Names the setting.
    """
    check_values(settings, RULES, prefix)
    for shares in (("focused_share", "large_share"), ("disk_share", "polygon_share")):
        values = [getattr(settings, share) for share in shares]
        if sum(values) > 1:
            names = " + ".join(f"{prefix}{share}" for share in shares)
            raise UserError(f"{names} is {sum(values):g}; these shares may add up to at most 1")
    radii = (*settings.usual_radius, settings.largest_radius)
    for names, values in {
        ("usual_radius", "largest_radius"): radii,
        ("jpeg_quality",): settings.jpeg_quality,
    }.items():
        if list(values) != sorted(values):
            names = " and ".join(f"{prefix}{name}" for name in names)
            raise UserError(f"{names}: {', '.join(map(str, values))} must not decrease")


def synthesize(
    sharp: _Image,
    settings: SynthesisSettings,
    rng: np.random.Generator,
    segmentation: Integer[np.ndarray, "height width"] | None = None,
    wanted: tuple[slice, slice] | None = None,
) -> dict[str, np.ndarray]:
    """Make a training pair of a sharp image, or of a part of it.

    Args:
        sharp: In sRGB.
        settings: How to draw.
        rng: Everything is drawn from it.
        segmentation: A label for each pixel, so that what is one thing has one layer.
        wanted: The rows and columns to return. The scene is drawn for all of the image, so
            that a part has as many depths as a part of a whole one; only what is wanted, and what
            spreads into it, is put out of focus.

    Returns:
        `blurred`, H x W x 3 uint8 (6 with dual pixels: left, right); `sharp`, as given; `radius`,
        H x W float32, the signed blur radius in pixels, below 0 in front of the plane of focus.
    """
    radius = draw_radius_map(sharp, settings, rng, segmentation)
    wanted = wanted or (slice(0, sharp.shape[0]), slice(0, sharp.shape[1]))
    margin = int(np.ceil(settings.largest_radius)) + 1
    around = tuple(slice(max(part.start - margin, 0), part.stop + margin) for part in wanted)
    sharp, radius = sharp[around], radius[around]
    aperture = draw_aperture(settings, rng)
    light = extend_highlights(sharp, rng.uniform(1, settings.highlight_gain))
    deviation = rng.uniform(0, settings.noise) / 255
    is_jpeg = rng.random() < settings.jpeg_share
    quality = int(rng.integers(*settings.jpeg_quality, endpoint=True))
    views = []
    for half in ("left", "right") if settings.dual_pixel else (None,):
        view = add_noise(defocus(light, radius, aperture, half), deviation, rng)
        view = np.rint(255 * linear_to_srgb(np.clip(view, 0, 1))).astype(np.uint8)
        views.append(_through_jpeg(view, quality) if is_jpeg else view)
    pair = {"blurred": np.concatenate(views, axis=-1), "sharp": sharp, "radius": radius}
    inside = tuple(
        slice(part.start - whole.start, part.stop - whole.start)
        for part, whole in zip(wanted, around, strict=True)
    )
    return {key: value[inside] for key, value in pair.items()}


def draw_radius_map(
    sharp: _Image,
    settings: SynthesisSettings,
    rng: np.random.Generator,
    segmentation: Integer[np.ndarray, "height width"] | None = None,
) -> _Map:
    """Draw a scene: the signed blur radius of each pixel, as in `synthesize`."""
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
    # The farthest comes first: the layers drawn after it lie over it.
    bases = sorted((_draw_radius(settings, rng) for _ in range(count)), reverse=True)
    radius = np.zeros(layers.shape, np.float32)
    for layer, base in enumerate(bases):
        plane = base + _draw_tilt(settings, rng, layers.shape)
        radius = np.where(layers == layer, plane, radius)
    return np.clip(radius, -settings.largest_radius, settings.largest_radius).astype(np.float32)


def draw_aperture(settings: SynthesisSettings, rng: np.random.Generator) -> Aperture:
    """Draw the shape of a lens's opening."""
    kind, angle, offset = rng.random(), rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.9)
    blades = int(rng.integers(5, 9, endpoint=True))
    if kind < settings.disk_share:
        return disk()
    if kind < settings.disk_share + settings.polygon_share:
        return polygon(blades, angle)
    return cat_eye(offset, angle)


def srgb_to_linear(encoded: _Light) -> _Light:
    """Undo the sRGB curve (IEC 61966-2-1): [0, 1] to linear light in [0, 1]."""
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(light: _Light) -> _Light:
    """Apply the sRGB curve (IEC 61966-2-1): linear light in [0, 1] to [0, 1]."""
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def extend_highlights(sharp: _Image, gain: float) -> Float32[np.ndarray, "height width 3"]:
    """Return the light of an image, brighter where it has been clipped.

    A light source spreads into a bright disk only if it is brighter than the white that it was
    recorded as. Pixels whose darkest channel is 255 become `gain` times as bright, those at 250
    stay, in proportion between.
    """
    light = srgb_to_linear(np.arange(256) / 255).astype(np.float32)[sharp]
    if gain == 1:
        return light
    clipped = np.clip(
        (sharp.min(-1, keepdims=True) - np.float32(_CLIPPED)) / (255 - _CLIPPED), 0, 1
    )
    return light * (1 + np.float32(gain - 1) * clipped)


def add_noise(light: _Light, deviation: float, rng: np.random.Generator) -> _Light:
    """Add read noise, the same everywhere, and shot noise, whose variance grows with the light.

    Both as one Gaussian (A. Foi et al., "Practical Poissonian-Gaussian noise modeling and fitting
    for single-image raw-data", IEEE Transactions on Image Processing 17, 2008).

    Args:
        light: Linear light, 1 is white.
        deviation: Standard deviation at middle gray after the sRGB curve.
        rng: Where it comes from.
    """
    at_gray = deviation / _SLOPE_AT_MIDDLE_GRAY
    shot = (1 - _READ_VARIANCE) / _MIDDLE_GRAY * np.maximum(light, 0)
    noise = rng.standard_normal(light.shape, np.float32)
    return light + np.float32(at_gray) * np.sqrt(_READ_VARIANCE + shot) * noise


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
    """Draw by how much the radius of a plane differs across the image; half face the camera."""
    is_tilted, slopes = rng.random() < 0.5, rng.uniform(-0.5, 0.5, 2) * settings.usual_radius[1]
    if not is_tilted:
        return 0.0
    y, x = (np.linspace(-0.5, 0.5, side, dtype=np.float32) for side in shape)
    return slopes[0] * y[:, None] + slopes[1] * x


def _draw_layers(
    sharp: _Image, count: int, rng: np.random.Generator
) -> Integer[np.ndarray, "height width"]:
    """Draw a layer for each pixel, whose outlines follow those of the image in part."""
    layers = np.zeros(sharp.shape[:2], np.int64)
    coarse = np.asarray(Image.fromarray(sharp).reduce(_COARSE), np.float32)
    for layer in range(1, count):
        colours = coarse @ rng.standard_normal(3).astype(np.float32)
        colours = ndimage.gaussian_filter(colours, 4 / _COARSE)
        field = 0.1 * (colours - colours.mean()) / (colours.std() + 1e-3)
        field += _smooth_field(layers.shape, rng)
        threshold = np.quantile(field, rng.uniform(0.4, 0.85))
        layers[_enlarged(field, layers.shape) > threshold] = layer
    return layers


def _smooth_field(
    shape: tuple[int, int], rng: np.random.Generator
) -> Float[np.ndarray, "coarse_height coarse_width"]:
    """Draw a coarse field from 0 to 1 of waves not shorter than a few hundred pixels."""
    half_wave = rng.uniform(80, 320)
    coefficients = np.zeros([-(-side // _COARSE) for side in shape], np.float32)
    lowest = tuple(slice(int(side / half_wave) + 2) for side in shape)
    coefficients[lowest] = rng.standard_normal(coefficients[lowest].shape)
    field = fft.idctn(coefficients)
    return (field - field.min()) / np.maximum(np.ptp(field), 1e-6)


def _enlarged(
    field: Float[np.ndarray, "coarse_height coarse_width"], shape: tuple[int, int]
) -> _Map:
    """Interpolate a coarse field bilinearly: each of its values stands amid `_COARSE` pixels."""
    height, width = shape
    box = (0, 0, width / _COARSE, height / _COARSE)
    coarse = Image.fromarray(field.astype(np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BILINEAR, box=box))


def _through_jpeg(image: _Image, quality: int) -> _Image:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer, formats=["JPEG"]))
