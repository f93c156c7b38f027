"""How each system names and sizes the images that it saves, and how its published code evaluates.

A system is a row of `PROFILES`. All differences between systems are in these rows.
"""

from typing import NamedTuple

from vitdeblur_jax.evaluation.frames import Frame
from vitdeblur_jax.evaluation.protocols import (
    CLIPPED_BGR,
    NOT_CLIPPED,
    NOT_SCALED,
    ROUNDED,
    ROUNDED_BGR,
    ROUNDED_NOT_CLIPPED,
    UNIFORM,
    Protocol,
)
from vitdeblur_jax.utils.errors import known


class Profile(NamedTuple):
    """How a system saves its images, and evaluates them.

    Attributes:
      system: Its name.
      names: Possible file names of its images, without suffix. `{source}` and `{target}` are the
        names of the blurred and the sharp image, `{path}` is the source's name with its folder
        if the set has several, and `{name}` is the pair's. `{index}` counts the pairs from 0,
        `{number}` from 1. `{suffix}` is any text that all the images share.
      beside: Patterns of the other files that it saves, which are ignored.
      folder: Subfolder of its results with the images.
      frame: How it crops or pads images.
      saves_frame: Whether it saves the frame, not an image of the input's size.
      protocol: Its published evaluation; None if it has none.
    """

    system: str
    names: tuple[str, ...]
    beside: tuple[str, ...] = ()
    folder: str = ""
    frame: Frame = Frame()
    saves_frame: bool = True
    protocol: Protocol | None = None


SOURCE_NAMES = ("{source}", "{path}")
_WITH_LPIPS = ("psnr", "ssim", "mae", "lpips_alex")
# pytorch_msssim's SSIM
_WITH_GAUSSIAN_SSIM = ("psnr", "ssim_gaussian", "lpips_alex")

PROFILES = (
    Profile("input", SOURCE_NAMES),
    Profile(
        "DPDNet",
        ("{source}_p",),
        ("*_i", "*_g"),
        frame=Frame(
            accepts=lambda height, width: (height, width) == (1120, 1680),
            wanted="images of 1680 x 1120 pixels (the published code resizes others)",
        ),
        protocol=Protocol((16,), (16,), values=NOT_CLIPPED, truncates=True),
    ),
    Profile(
        "AIFNet",
        SOURCE_NAMES,
        ("out_dfm*",),
        "out_aif",
        frame=Frame("crop", 16),
        protocol=Protocol(metrics=("psnr", "ssim"), values=NOT_CLIPPED),
    ),
    Profile(
        "MDP",
        ("{source}_p_s",),
        ("*_i", "*_g", "*_p_l", "*_p_r"),
        frame=Frame("pad", 16, place="start", fill="black"),
        saves_frame=False,
        protocol=Protocol((16,), (16,), values=NOT_CLIPPED, truncates=True),
    ),
    Profile(
        "KPAC",
        SOURCE_NAMES,
        frame=Frame(
            accepts=lambda height, width: height % 4 == width % 4 == 0,
            wanted="sides that are multiples of 4",
        ),
        protocol=Protocol(values=ROUNDED),  # the released code saves, and measures nothing
    ),
    Profile(
        "IFANet",
        ("{number:02}",),
        frame=Frame("crop", 8),
        protocol=Protocol((8, 16), metrics=_WITH_LPIPS),
    ),
    Profile(
        "GKMNet",
        SOURCE_NAMES,  # the released code saves no images
        frame=Frame("pad", 16, place="around", fill="black"),
        saves_frame=False,
        protocol=Protocol(
            metrics=_WITH_GAUSSIAN_SSIM,
            values=ROUNDED,
            values_of=(("ssim_gaussian", ROUNDED_NOT_CLIPPED), ("lpips_alex", NOT_SCALED)),
            network="gkmnet",
        ),
    ),
    Profile(
        "DRBNet",
        SOURCE_NAMES,
        frame=Frame("crop", 16),
        protocol=Protocol(metrics=("psnr", "ssim", "lpips_alex")),
    ),
    Profile("Restormer", ("{target}",), protocol=Protocol((8,), (16,), metrics=_WITH_LPIPS)),
    Profile(
        "NRKNet",
        ("{index:04}",),
        frame=Frame(
            *("pad", 16, "around"),
            accepts=lambda height, width: height % 2 == width % 2 == 0,
            wanted="even sides",
        ),
        protocol=Protocol(
            metrics=_WITH_GAUSSIAN_SSIM,
            values=ROUNDED,
            values_of=(("ssim_gaussian", ROUNDED_NOT_CLIPPED), ("lpips_alex", ROUNDED_BGR)),
            network="nrknet_image_statistics",
        ),
    ),
    Profile(
        "ViTDeblur",
        ("{target}_recover", "{source}_recover"),
        frame=Frame(
            *("pad", 16),
            accepts=lambda height, width: min(height, width) >= 320,
            wanted="sides of 320 pixels or more (the published code resizes others)",
        ),
        protocol=Protocol(
            metrics=(*_WITH_LPIPS[:3], "lpips_squeeze"),
            values_of=(("lpips_squeeze", CLIPPED_BGR),),
            truncates=True,
        ),
    ),
    Profile("BasicSR", ("{source}_{suffix}",), ("*_i", "*_g", "*_gt", "*_p_l", "*_p_r")),
    Profile("evaluate.py", ("{name}",), ("images/*",), "restored"),
)
PUBLISHED = tuple(one.system.casefold() for one in PROFILES if one.protocol is not None)
OURS = Profile("", (), protocol=UNIFORM)
_BY_NAME = {profile.system.casefold(): profile for profile in PROFILES}


def profile_notes(profile: Profile, views: int) -> list[str]:
    """Returns a line on how a published evaluation treats images; none for `OURS`."""
    if profile is OURS:
        return []
    protocol = profile.protocol
    bits = " or ".join(map(str, protocol.bits(views)))
    parts = [f"{bits} bits", f"images {profile.frame.in_words}"]
    if protocol.network:
        parts.append("batch norm with the statistics of each image")
    if protocol.truncates:
        parts.append("saved values rounded down")
    return [f"profile {profile.system}: {', '.join(parts)}"]


def find_profile(name: str) -> Profile:
    """Returns the profile of that name, in capitals or not.

    Raises:
      UserError: there is none; the nearest is named.
    """
    return _BY_NAME[known("profile", name.casefold(), _BY_NAME)]


def find_protocol(name: str) -> Profile:
    """Returns the profile whose published evaluation to use; `OURS` for an empty name.

    Raises:
      UserError: No profile of this name has one; the nearest is named.
    """
    if not name:
        return OURS
    return _BY_NAME[known("profile", name.casefold(), PUBLISHED)]
