"""Camera effects: clipped highlights, noise and JPEG."""

import io

import jax
import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from vitdeblur_jax.data.srgb import srgb_to_linear

_Image = UInt8[np.ndarray, "height width 3"]
_Light = Float[np.ndarray, "..."]
_Values = Float[np.ndarray | jax.Array, "..."]

JPEG_BLOCK = 16  # pixels; a block of chrominance, which has half the resolution
CLIPPED = 250  # of 255; channels above this are probably clipped
SLOPE_AT_MIDDLE_GRAY = 1.08  # of the sRGB curve
_MIDDLE_GRAY = 0.2140  # in linear light; 0.5 in sRGB
_READ_VARIANCE = 0.01  # fraction of the noise variance at middle gray; the rest is shot noise


def extend_highlights(sharp: _Image, gain: float) -> Float32[np.ndarray, "height width 3"]:
    """Converts an sRGB image to linear light and brightens clipped pixels.

    A light source blurs to a bright disk only if it is brighter than the recorded white. Pixels
    whose darkest channel is 255 become `gain` times as bright. Pixels whose darkest channel is 250
    or less are unchanged. The gain is linear in between.
    """
    light = srgb_to_linear(np.arange(256) / 255).astype(np.float32)[sharp]
    if gain == 1:
        return light
    clipped = np.clip((sharp.min(-1, keepdims=True) - np.float32(CLIPPED)) / (255 - CLIPPED), 0, 1)
    return light * (1 + np.float32(gain - 1) * clipped)


def add_noise(light: _Light, deviation: float, rng: np.random.Generator) -> _Light:
    """Adds read noise of constant variance and shot noise of a variance proportional to the light.

    Their sum is modeled as Gaussian (A. Foi et al., "Practical Poissonian-Gaussian noise modeling
    and fitting for single-image raw-data", IEEE Transactions on Image Processing 17, 2008).

    Args:
        light: Linear light; 1 is white.
        deviation: Standard deviation at middle gray after the sRGB curve.
        rng: The random generator.
    """
    at_gray = np.float32(deviation / SLOPE_AT_MIDDLE_GRAY)
    variance = noise_variance(np.maximum(light, 0))
    noise = rng.standard_normal(light.shape, np.float32)
    return light + at_gray * np.sqrt(variance) * noise


def noise_variance(light: _Values) -> _Values:
    """Returns the variance of read and shot noise, divided by that at middle gray."""
    return _READ_VARIANCE + (1 - _READ_VARIANCE) / _MIDDLE_GRAY * light


def through_jpeg(image: _Image, quality: int, corner: tuple[int, int] = (0, 0)) -> _Image:
    """Compresses an image as JPEG and decodes it again.

    Args:
        image: An sRGB image.
        quality: 1 to 100.
        corner: Row and column of the image's first pixel in the whole image, whose first block
            starts at (0, 0).
    """
    before = [start % JPEG_BLOCK for start in corner]
    padded = np.pad(image, (*((n, 0) for n in before), (0, 0)), mode="edge")
    buffer = io.BytesIO()
    Image.fromarray(padded).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer, formats=["JPEG"]))[before[0] :, before[1] :]
