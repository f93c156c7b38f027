"""Convert samples from a color profile to colors that a format can store."""

import io

import imagecodecs
import numpy as np
from PIL import ImageCms

from vitdeblur_jax.data.image_io.color_codes import DISPLAY_P3, SRGB, color_chunk, profile_of
from vitdeblur_jax.data.image_io.decoded_image import Metadata, Samples
from vitdeblur_jax.data.image_io.fitting import is_gray_profile

_SAME_PRIMARIES = 0.01  # CIE xy


def can_convert(profile: bytes) -> bool:
    """Returns whether colors can be converted from a color profile to sRGB."""
    space = "gray" if is_gray_profile(profile) else "rgb"
    black = np.zeros((1, 1) if space == "gray" else (1, 1, 3), np.uint8)
    try:
        _transformed(black, profile, _srgb(), (space, "rgb"))
    except imagecodecs.CmsError:
        return False
    return True


def gray_to_srgb(samples: Samples, metadata: Metadata) -> tuple[Samples, Metadata]:
    """Converts three equal channels, and alpha, from a gray color profile to sRGB.

    Without a usable profile the samples stay and the profile is left out.
    """
    srgb = _srgb()
    gray = np.ascontiguousarray(samples[..., 1])
    try:
        rgb = _transformed(gray, metadata.icc_profile, srgb, ("gray", "rgb"))
    except imagecodecs.CmsError:
        return samples, metadata.replace(icc_profile=None)
    return np.dstack((rgb, samples[..., 3:])), metadata.replace(icc_profile=srgb)


def to_standard_colors(
    samples: Samples, metadata: Metadata, is_gray: bool
) -> tuple[Samples, Metadata]:
    """Converts samples, H x W (gray) or H x W x 2 to 4, from their profile to sRGB or Display P3.

    sRGB is chosen if the profile has its primaries. In the metadata, a cICP chunk replaces the
    profile; sRGB needs none. Without a usable profile the samples stay.
    """
    profile = metadata.icc_profile
    if not profile:
        return samples, metadata
    target = SRGB if is_gray or _has_srgb_primaries(profile) else DISPLAY_P3
    metadata = metadata.replace(icc_profile=None, png_color=color_chunk(*target))
    channels = np.atleast_3d(samples)
    count = 1 if is_gray else 3
    colors = np.ascontiguousarray(channels[..., :count])
    space = "gray" if is_gray_profile(profile) else "rgb"
    if space == "gray":
        colors = colors[..., 0]
    elif is_gray:  # with a profile of RGB
        colors = colors.repeat(3, axis=-1)
    target_profile = profile_of(*target, is_gray=space == "gray")
    try:
        converted = _transformed(colors, profile, target_profile, (space, space))
    except imagecodecs.CmsError:
        return samples, metadata.replace(png_color={})
    converted = np.dstack((np.atleast_3d(converted)[..., :count], channels[..., count:]))
    return converted[..., 0] if samples.ndim == 2 else converted, metadata


def _srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _transformed(
    samples: np.ndarray, source: bytes, target: bytes, spaces: tuple[str, str]
) -> np.ndarray:
    return imagecodecs.cms_transform(
        samples, source, target, colorspace=spaces[0], outcolorspace=spaces[1]
    )


def _has_srgb_primaries(profile: bytes) -> bool:
    try:
        srgb, other = (
            ImageCms.ImageCmsProfile(source).profile
            for source in (ImageCms.createProfile("sRGB"), io.BytesIO(profile))
        )
        first, second = (
            np.array([getattr(one, f"{name}_primary")[1][:2] for name in ("red", "green", "blue")])
            for one in (srgb, other)
        )
        return np.allclose(first, second, atol=_SAME_PRIMARIES)
    except (OSError, TypeError, ImageCms.PyCMSError):  # a profile of tables has no primaries
        return False
