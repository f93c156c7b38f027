"""Camera effects on the device: clipped highlights, noise and JPEG; see `defocus.camera`."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8
from scipy.fft import dct

from vitdeblur_jax.data.defocus.camera import (
    CLIPPED,
    JPEG_BLOCK,
    SLOPE_AT_MIDDLE_GRAY,
    noise_variance,
)
from vitdeblur_jax.data.srgb import linear_to_srgb

_Light = Float[Array, "height width 3"]
_Views = Float[Array, "height width channels"]

_BLOCK = 8
_DCT = dct(np.eye(_BLOCK), axis=0, norm="ortho").astype(np.float32)
_EXACT = jax.lax.Precision.HIGHEST
# ITU-T T.81, Annex K.1: the tables of quality 50 for luminance and chrominance.
_LUMINANCE = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56
14 17 22 29 51 87 80 62 18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92
49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
_CHROMINANCE = (
    """17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99
47 66 99 99 99 99 99 99"""
    + 32 * " 99"
)
_TABLES = np.array([_LUMINANCE.split(), _CHROMINANCE.split()], np.int32).reshape(2, 8, 8)
# JFIF: from R, G, B to Y, Cb - 128, Cr - 128.
_TO_YCC = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32
)
_FROM_YCC = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]], np.float32)


def extend_highlights(light: _Light, gain: Float[Array, ""] | float) -> _Light:
    """Brightens clipped pixels by up to `gain`; see the NumPy function of the same name."""
    darkest = 255 * linear_to_srgb(light.min(-1, keepdims=True))
    return light * (1 + (gain - 1) * jnp.clip((darkest - CLIPPED) / (255 - CLIPPED), 0, 1))


def add_noise(key: Key[Array, ""], light: _Views, deviation: Float[Array, ""] | float) -> _Views:
    """Adds read and shot noise; see the NumPy function of the same name.

    Args:
        key: Random key.
        light: Linear light; 1 is white.
        deviation: Standard deviation at middle gray after the sRGB curve.
    """
    spread = jnp.sqrt(noise_variance(jnp.maximum(light, 0))) / SLOPE_AT_MIDDLE_GRAY
    return light + deviation * spread * jax.random.normal(key, light.shape)


def through_jpeg(
    image: UInt8[Array, "height width 3"],
    quality: Int[Array, ""] | int,
    corner: Int[Array, "2"] | tuple[int, int] = (0, 0),
) -> Array:
    """Compresses an image as JPEG with subsampled chrominance, and decodes it again.

    This is what libjpeg does by default, except for the rounding of its integer arithmetic.

    Args:
        image: An sRGB image.
        quality: 1 to 100.
        corner: Row and column of the image's first pixel in the whole image, whose first block
            starts at (0, 0).

    Returns:
        The decoded image, H x W x 3 uint8.
    """
    # Any corner gives the same shapes, because it may be traced.
    most = JPEG_BLOCK - 1
    before = [jnp.asarray(start) % JPEG_BLOCK for start in corner]
    padded = jnp.pad(image, ((most, most), (most, most), (0, 0)), mode="edge")
    sides = [side + most for side in image.shape[:2]]
    aligned = jax.lax.dynamic_slice(padded, (most - before[0], most - before[1], 0), (*sides, 3))
    return jax.lax.dynamic_slice(_through_jpeg(aligned, quality), (*before, 0), image.shape)


def _through_jpeg(image, quality):
    height, width, _ = image.shape
    padding = [(0, -side % JPEG_BLOCK) for side in (height, width)]
    image = jnp.pad(image, (*padding, (0, 0)), mode="edge").astype(jnp.float32)
    luminance, *colors = jnp.moveaxis(jnp.round(_mixed(_TO_YCC, image)), -1, 0)
    decoded = [_quantized(luminance - 128, 0, quality) + 128]
    for color in colors:
        rows, columns = (side // 2 for side in color.shape)
        small = color.reshape(rows, 2, columns, 2).mean((1, 3))
        small = jnp.floor(small + (1 + np.arange(columns) % 2) / 4)  # libjpeg's rounding
        small = _quantized(small, 1, quality)
        decoded.append(jnp.round(jax.image.resize(small, color.shape, "linear")))
    image = _mixed(_FROM_YCC, jnp.stack(decoded, axis=-1))[:height, :width]
    return jnp.clip(jnp.round(image), 0, 255).astype(jnp.uint8)


def _mixed(matrix: np.ndarray, image: Float[Array, "height width 3"]) -> Array:
    return jnp.einsum("dc,hwc->hwd", matrix, image, precision=_EXACT)


def _quantized(
    channel: Float[Array, "height width"], table: int, quality: Int[Array, ""] | int
) -> Float[Array, "height width"]:
    """Returns a channel, from -128 to 127, after its coefficients were quantized."""
    quality = jnp.asarray(quality)
    scale = jnp.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    steps = jnp.clip((_TABLES[table] * scale + 50) // 100, 1, 255)[:, None]
    height, width = channel.shape
    blocks = channel.reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK)
    coefficients = jnp.einsum("ui,aibj,vj->aubv", _DCT, blocks, _DCT, precision=_EXACT)
    levels = jnp.floor(jnp.abs(coefficients) / steps + 0.5)  # halves away from 0, as in libjpeg
    coefficients = jnp.sign(coefficients) * levels * steps
    blocks = jnp.einsum("ui,aubv,vj->aibj", _DCT, coefficients, _DCT, precision=_EXACT)
    return jnp.clip(jnp.round(blocks), -128, 127).reshape(height, width)
