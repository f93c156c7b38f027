"""DPDD's training patches: a grid over each image without the least sharp patches.

The patches follow A. Abuolaim and M. S. Brown, "Defocus Deblurring Using Dual-Pixel Data", ECCV
2020, and its published code. Restormer and other papers use them as well.
"""

import numpy as np
from jaxtyping import Float, UInt8, UInt16
from scipy import ndimage

from vitdeblur_jax.utils.errors import UserError

PATCH = 512
STEP = 204  # neighboring patches overlap by 60 %
LEFT_OUT = 0.3  # fraction of an image's patches: flat regions carry no information about blur
_SOBEL_SIZES = (3, 7, 11, 15)
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)

_Image = UInt8[np.ndarray, "height width 3"] | UInt16[np.ndarray, "height width 3"]
_Corner = tuple[int, int]


def patch_corners(height: int, width: int) -> list[_Corner]:
    """Returns the top left corners of the patches of an image, row by row.

    The step is `STEP` pixels. The last patch of a row or column ends at the edge of the image.

    Raises:
        UserError: The image is smaller than a patch.
    """
    if min(height, width) < PATCH:
        raise UserError(f"{width} x {height} pixels; patches need at least {PATCH} x {PATCH}")
    rows, columns = ([*range(0, side - PATCH, STEP), side - PATCH] for side in (height, width))
    return [(top, left) for top in rows for left in columns]


def sharpest(sharp: _Image, corners: list[_Corner]) -> list[_Corner]:
    """Returns the corners without those of the least sharp patches."""
    order = np.argsort(sharpness_energy(sharp, corners), kind="stable")
    left_out = set(order[: int(LEFT_OUT * len(corners))])
    return [corner for number, corner in enumerate(corners) if number not in left_out]


def sharpness_energy(sharp: _Image, corners: list[_Corner]) -> Float[np.ndarray, " patches"]:
    """Returns the sharpness energy of patches in [0, 1], comparable only within one image.

    The function sums the gradient magnitude of each patch for Sobel kernels of sizes 3, 7, 11 and
    15. It rescales each sum to [0, 1] over the image's patches and multiplies the four. The
    gradients are computed on the whole image; the published code reflects at each patch's border.
    """
    gray = sharp.astype(np.float32) @ _LUMA / np.iinfo(sharp.dtype).max
    energy = np.ones(len(corners))
    for size in _SOBEL_SIZES:
        sums = _patch_sums(_gradient_magnitude(gray, size), corners)
        energy *= (sums - sums.min()) / max(np.ptp(sums), np.finfo(float).tiny)
    return energy


def _gradient_magnitude(
    gray: Float[np.ndarray, "height width"], size: int
) -> Float[np.ndarray, "height width"]:
    smooth = np.ones(1)
    for _ in range(size - 2):
        smooth = np.convolve(smooth, [1, 1])
    slope, smooth = np.convolve(smooth, [-1, 1]), np.convolve(smooth, [1, 1])
    x, y = (
        ndimage.correlate1d(
            ndimage.correlate1d(gray, slope, axis=axis, mode="mirror"),
            smooth,
            axis=1 - axis,
            mode="mirror",
        )
        for axis in (1, 0)
    )
    return np.sqrt(x * x + y * y)


def _patch_sums(
    values: Float[np.ndarray, "height width"], corners: list[_Corner]
) -> Float[np.ndarray, " patches"]:
    table = np.pad(values, ((1, 0), (1, 0))).cumsum(0, dtype=np.float64).cumsum(1)
    top, left = np.array(corners).T
    bottom, right = top + PATCH, left + PATCH
    return table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
