"""Checks images, and converts pixels between integers and floats.

This file is copied into exported models, which do not have this package. So it uses only NumPy, has
no jaxtyping annotations, and returns error messages instead of raising `UserError`.
"""

import numpy as np
from numpy.typing import DTypeLike


def image_fault(views: int, image: np.ndarray) -> str | None:
    """Returns an error message if a network with `views` views cannot take the image, else None."""
    if not hasattr(image, "ndim"):
        return f"an image is an array, and this is a {type(image).__name__}"
    channels = 3 * views
    if image.ndim != 3 or image.shape[-1] != channels or 0 in image.shape:
        named = {1: "1 view", 2: "2 views, left and right"}.get(views, f"{views} views")
        shape = " x ".join(map(str, image.shape)) or "a single number"
        return f"the network takes height x width x {channels} ({named}); the image is {shape}"
    if image.dtype in (np.uint8, np.uint16):
        return None
    if image.dtype.kind != "f" and image.dtype.name != "bfloat16":
        return f"an image must be uint8, uint16 or float in [0, 1]; this one is {image.dtype}"
    smallest, largest = float(image.min()), float(image.max())
    if not np.isfinite([smallest, largest]).all():
        return "the image has values that are not finite (NaN or infinity)"
    if smallest < -1 or largest > 2:
        return (
            "float images have values in [0, 1]; this image has values from "
            f"{smallest:.4g} to {largest:.4g}"
        )
    return None


def as_float(image: np.ndarray) -> np.ndarray:
    """Returns float32; the full range of an integer dtype is mapped to [0, 1]."""
    if image.dtype.kind == "u":
        return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)
    return image.astype(np.float32)


def as_dtype(image, dtype: DTypeLike):
    """Returns floats, of NumPy or JAX, as `dtype`; clips to [0, 1], scales and rounds integers."""
    if np.dtype(dtype).kind != "u":
        return image.astype(dtype)
    whole = np.iinfo(dtype).max
    return (image.clip(0, 1) * np.float32(whole)).round().astype(dtype)


def blended(given, restored, strength):
    """Returns `strength * restored + (1 - strength) * given`; of NumPy or JAX.

    Args:
      given: The blurred image as floats, `(height, width, 3 * views)`; the mean of views is taken.
      restored: `(height, width, 3)`.
      strength: Weight of the restored image, float32.
    """
    blurred = given.reshape(*given.shape[:-1], -1, 3).mean(axis=-2)
    return blurred + strength * (restored - blurred)
