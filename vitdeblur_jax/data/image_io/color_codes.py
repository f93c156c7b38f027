"""CICP: the primaries and transfer function of an image as code numbers (ITU-T H.273)."""

from collections.abc import Mapping

import imagecodecs
import numpy as np

from vitdeblur_jax.data.srgb import srgb_to_linear

_D65, _DCI = (0.3127, 0.3290), (0.314, 0.351)
# White point and the red, green and blue primaries as CIE xy, by code.
_PRIMARIES = {
    1: (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06),  # BT.709, sRGB
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),  # BT.601 with 625 lines
    6: (*_D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),  # BT.601 with 525 lines
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # BT.2020
    11: (*_DCI, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),  # DCI-P3
    12: (*_D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),  # Display P3
}
_UNSPECIFIED, _SRGB = 2, 13
SRGB, DISPLAY_P3 = (1, _SRGB), (12, _SRGB)  # primaries and transfer function
# Cameras and viewers treat the curves of BT.709, BT.601 and BT.2020 as that of sRGB.
_LIKE_SRGB = (1, 6, _SRGB, 14, 15)
_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}
_TABLE = 1024  # entries of a curve in a profile


def color_chunk(primaries: int, transfer: int) -> dict[bytes, bytes]:
    """Returns the colors of RGB samples as the PNG chunk cICP; nothing for sRGB or unspecified."""
    primaries = 1 if primaries in (0, _UNSPECIFIED) else primaries
    transfer = _SRGB if transfer in (0, _UNSPECIFIED) else transfer
    if primaries == 1 and transfer in _LIKE_SRGB:
        return {}
    return {b"cICP": bytes([primaries, transfer, 0, 1])}  # no matrix: RGB; full range


def codes(color: Mapping[bytes, bytes]) -> tuple[int, int] | None:
    """Returns the codes of the primaries and the transfer function of a cICP chunk, if any."""
    content = color.get(b"cICP", b"")
    return (content[0], content[1]) if len(content) == 4 else None


def profile_of(primaries: int, transfer: int, is_gray: bool) -> bytes | None:
    """Returns the equivalent ICC profile. HDR transfer functions have none."""
    if transfer in _GAMMAS:
        curve = {"gamma": _GAMMAS[transfer]}
    elif transfer in _LIKE_SRGB:
        curve = {"transferfunction": _srgb_curve()}
    else:
        return None
    if is_gray:
        return imagecodecs.cms_profile("gray", **curve)
    if primaries not in _PRIMARIES:
        return None
    points = np.reshape(_PRIMARIES[primaries], (4, 2))
    white, *colors = ([float(x), float(y), 1.0] for x, y in points)
    colors = [value for point in colors for value in point]
    return imagecodecs.cms_profile("rgb", whitepoint=white, primaries=colors, **curve)


def _srgb_curve() -> np.ndarray:
    """Returns the sRGB electro-optical transfer function (IEC 61966-2-1), sampled on [0, 1]."""
    return srgb_to_linear(np.linspace(0, 1, _TABLE)).astype(np.float32)
