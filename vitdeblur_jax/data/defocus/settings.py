"""The settings of synthetic defocus and their valid values."""

from dataclasses import dataclass
from typing import Any

from vitdeblur_jax.utils.config_checks import check_values, flag, integer, number, sequence
from vitdeblur_jax.utils.errors import UserError


@dataclass(frozen=True)
class SynthesisSettings:
    """The distribution of scenes, lenses and cameras. The defaults follow real image pairs.

    Attributes:
        smooth_share: Share of scenes with a smooth field of radii; the others have layers.
        most_layers: Largest number of layers in a scene. Each layer is a plane, tilted or not.
        usual_radius: Range of most defocus radii in pixels, with a uniform distribution.
        largest_radius: The largest defocus radius in pixels.
        focused_share: Share of radii below the usual range.
        large_share: Share of radii above the usual range.
        disk_share: Share of lenses with a wide open aperture, a disk.
        polygon_share: Share of lenses with a polygon of 5 to 9 blades. The rest are cat's eyes.
        falloff: Range of the light falloff of the aperture: 0 is uniform, 1 transmits no light at
            the rim, -1 none at the center.
        tone: Range of the exponent that turns the linear light of the sharp image into the light of
            the scene; it stands for the camera's tone curve. 1 is a camera with the sRGB curve.
        dual_pixel: Make a left and a right view (6 channels) instead of one view.
        highlight_gain: Largest factor by which clipped highlights are brightened before the blur; 1
            leaves them unchanged.
        noise: Largest standard deviation of the noise at middle gray, in 255ths.
        jpeg_share: Share of blurred images with JPEG compression.
        jpeg_quality: Lowest and highest JPEG quality.
    """

    smooth_share: float = 0.35
    most_layers: int = 4
    usual_radius: tuple[float, float] = (0.5, 8.0)
    largest_radius: float = 12.0
    focused_share: float = 0.1
    large_share: float = 0.1
    disk_share: float = 0.6
    polygon_share: float = 0.2
    falloff: tuple[float, float] = (0.0, 0.0)
    tone: tuple[float, float] = (1.0, 1.0)
    dual_pixel: bool = False
    highlight_gain: float = 1.0
    noise: float = 2.0
    jpeg_share: float = 0.15
    jpeg_quality: tuple[int, int] = (85, 97)

    def __post_init__(self):
        """Checks the settings.

        Raises:
            UserError: A setting is invalid.
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
    "falloff": sequence(number(-1, 1), length=2),
    "tone": sequence(number(0.25, 4), length=2),
    "dual_pixel": flag(),
    "highlight_gain": number(1, 1e6),
    "noise": number(0, 255),
    "jpeg_share": number(0, 1),
    "jpeg_quality": sequence(integer(1, 100), length=2),
}


def check_settings(settings: Any, prefix: str = "") -> None:
    """Checks each setting by its rule, then the settings that depend on each other.

    Args:
        settings: An object with the attributes of `SynthesisSettings`.
        prefix: Prefix of setting names in error messages.

    Raises:
        UserError: A setting is invalid. The message contains its name.
    """
    check_values(settings, RULES, prefix)
    for shares in (("focused_share", "large_share"), ("disk_share", "polygon_share")):
        values = [getattr(settings, share) for share in shares]
        if sum(values) > 1:
            names = " + ".join(f"{prefix}{share}" for share in shares)
            raise UserError(f"{names} is {sum(values):g}; the sum must be at most 1")
    radii = (*settings.usual_radius, settings.largest_radius)
    for names, values in {
        ("usual_radius", "largest_radius"): radii,
        ("falloff",): settings.falloff,
        ("tone",): settings.tone,
        ("jpeg_quality",): settings.jpeg_quality,
    }.items():
        if list(values) != sorted(values):
            names = " and ".join(f"{prefix}{name}" for name in names)
            raise UserError(f"{names}: {', '.join(map(str, values))} must not decrease")
