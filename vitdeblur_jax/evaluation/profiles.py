"""How each system names, crops and pads the images that it saves.

A system is a row of `PROFILES`. All differences between systems are in these rows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt

from vitdeblur_jax.utils.errors import known

_Pixels = UInt[np.ndarray, "_ _ 3"]


class Profile(NamedTuple):
    """How a system saves its images.

    Attributes:
      system: Its name.
      names: Possible file names of its images, without suffix. `{source}` and `{target}` are the
        names of the blurred and the sharp image, `{path}` is the source's name with its folder
        if the set has several, and `{name}` is the pair's. `{index}` counts the pairs from 0,
        `{number}` from 1. `{suffix}` is any text that all the images share.
      beside: Patterns of the other files that it saves, which are ignored.
      folder: Subfolder of its results with the images.
      crop: Multiple to which it crops images, at the bottom and right.
      pad: Multiple to which it pads images.
      pads_around: Whether it pads all sides (the smaller half first) instead of bottom and right.
    """

    system: str
    names: tuple[str, ...]
    beside: tuple[str, ...] = ()
    folder: str = ""
    crop: int = 1
    pad: int = 1
    pads_around: bool = False


SOURCE_NAMES = ("{source}", "{path}")

PROFILES = (
    Profile("input", SOURCE_NAMES),
    Profile("DPDNet", ("{source}_p",), ("*_i", "*_g")),
    Profile("AIFNet", SOURCE_NAMES, ("out_dfm*",), "out_aif", crop=16),
    Profile("MDP", ("{source}_p_s",), ("*_i", "*_g", "*_p_l", "*_p_r")),
    Profile("KPAC", SOURCE_NAMES),
    Profile("IFANet", ("{number:02}",), crop=8),
    Profile("GKMNet", SOURCE_NAMES),  # the released code saves no images
    Profile("DRBNet", SOURCE_NAMES, crop=16),
    Profile("Restormer", ("{target}",)),
    Profile("NRKNet", ("{index:04}",), pad=16, pads_around=True),
    Profile("ViTDeblur", ("{target}_recover", "{source}_recover"), pad=16),
    Profile("BasicSR", ("{source}_{suffix}",), ("*_i", "*_g", "*_gt", "*_p_l", "*_p_r")),
    Profile("evaluate.py", ("{name}",), folder="restored"),
)
_BY_NAME = {profile.system.casefold(): profile for profile in PROFILES}


def find_profile(name: str) -> Profile:
    """Returns the profile of that name, in capitals or not.

    Raises:
      UserError: there is none; the nearest is named.
    """
    return _BY_NAME[known("profile", name.casefold(), _BY_NAME)]


def align(
    image: _Pixels, target: _Pixels, profiles: Sequence[Profile]
) -> tuple[_Pixels, _Pixels, str] | None:
    """Makes the saved image and its target the same part of the scene.

    Args:
      image: H x W x 3, as saved.
      target: of the size of the image.
      profiles: that may have cropped or padded it.

    Returns:
      Both, of one size, and a sentence on what was done, which is empty where nothing was; None
      where no profile has this size, or two explain it in different ways.
    """
    height, width = target.shape[:2]
    if image.shape == target.shape:
        return image, target, ""
    explained = {}
    for profile in profiles:
        crop, pad = profile.crop, profile.pad
        cropped = (height - height % crop, width - width % crop)
        padding = (-height % pad, -width % pad)
        if image.shape[:2] == cropped:
            note = f"cropped to a multiple of {crop} from the top left, the target alike"
            explained["crop"] = (image, target[: cropped[0], : cropped[1]], note)
        elif image.shape[:2] == (height + padding[0], width + padding[1]):
            top, left = (side // 2 if profile.pads_around else 0 for side in padding)
            where = "all around" if profile.pads_around else "at the bottom and right"
            note = f"padded to a multiple of {pad} {where}, cut back"
            explained["pad", top, left] = (
                image[top : top + height, left : left + width],
                target,
                note,
            )
    return next(iter(explained.values())) if len(explained) == 1 else None
