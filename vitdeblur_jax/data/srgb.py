"""The sRGB curve (IEC 61966-2-1), for NumPy and JAX arrays."""

from typing import Any

from jaxtyping import Float

_Values = Float[Any, "..."]


def srgb_to_linear(encoded: _Values) -> _Values:
    """Converts sRGB values in [0, 1] to linear light in [0, 1]."""
    where = encoded.__array_namespace__().where
    return where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(light: _Values) -> _Values:
    """Converts linear light in [0, 1] to sRGB values in [0, 1]."""
    where = light.__array_namespace__().where
    return where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
