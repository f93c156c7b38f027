"""Pixels in and out of a network, with NumPy alone.

This file is also copied beside exported models, where the rest of the package is absent. For the
same reason shapes stand in the docstrings, and what is wrong with an image is returned.
"""

import numpy as np
from numpy.typing import DTypeLike


def image_fault(views: int, image: np.ndarray) -> str | None:
    """Returns in one line why a network of so many views cannot take the image, or None."""
    channels = 3 * views
    if image.ndim != 3 or image.shape[-1] != channels or 0 in image.shape:
        named = {1: "1 view", 2: "2 views, left and right"}.get(views, f"{views} views")
        shape = " x ".join(map(str, image.shape)) or "a single number"
        return f"the network takes height x width x {channels} ({named}); the image is {shape}"
    if image.dtype in (np.uint8, np.uint16):
        return None
    if image.dtype.kind != "f" and image.dtype.name != "bfloat16":
        return f"an image is uint8, uint16 or float in [0, 1]; this one is {image.dtype}"
    smallest, largest = float(image.min()), float(image.max())
    if not np.isfinite([smallest, largest]).all():
        return "the image has values that are not finite (NaN or infinity)"
    if smallest < -1 or largest > 2:
        return (
            "floats stand for light in [0, 1]; this image goes from "
            f"{smallest:.4g} to {largest:.4g}"
        )
    return None


def as_float(image: np.ndarray) -> np.ndarray:
    """Returns float32 with integers' whole range mapped to [0, 1]."""
    if image.dtype.kind == "u":
        return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)
    return image.astype(np.float32)


def as_dtype(image: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    """Returns floats as `dtype`: clipped and rounded to its whole range where it is an integer."""
    if np.dtype(dtype).kind != "u":
        return image.astype(dtype)
    whole = np.iinfo(dtype).max
    return np.round(image.clip(0, 1) * np.float32(whole)).astype(dtype)


def extend_by_reflection(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Extends bottom and right to at least `height` x `width`; a larger side stays as it is.

    A side is reflected as often as needed; the pixel at the edge is not repeated.
    """
    missing = max(0, height - image.shape[0]), max(0, width - image.shape[1])
    if not any(missing):
        return image
    return np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="reflect")
