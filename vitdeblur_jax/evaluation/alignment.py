"""Alignment of saved images with their targets: the same part of the scene, at one bit depth."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt

from vitdeblur_jax.data.image_io import Samples, as_8_bits
from vitdeblur_jax.evaluation.frames import Frame
from vitdeblur_jax.evaluation.profiles import Profile

_Pixels = UInt[np.ndarray, "_ _ 3"]


def target_as_deep(target: Samples, image: Samples, bits: tuple[int, ...]) -> Samples:
    """Returns the target at the depth that an image is compared at.

    Args:
      target: Of 8 or 16 bits.
      image: Of 8 or 16 bits.
      bits: The depths that the protocol compares at. If there are both, the image decides.
    """
    is_deep = 16 in bits if image.dtype == np.uint16 else 8 not in bits
    return target if is_deep else as_8_bits(target)


def align(
    image: _Pixels, target: _Pixels, profiles: Sequence[Profile]
) -> tuple[_Pixels, _Pixels, str] | None:
    """Makes the saved image and its target the same part of the scene.

    Args:
      image: `(height, width, 3)`, as saved.
      target: Of the size of the input.
      profiles: That may have cropped or padded the image.

    Returns:
      Both, of one size, and a note on what was done, which is empty if nothing was; None if no
      profile has this size, or two explain it in different ways.
    """
    height, width = target.shape[:2]
    if image.shape == target.shape:
        return image, target, ""
    explained = {}
    for frame in [profile.frame for profile in profiles if profile.saves_frame]:
        if image.shape[:2] != frame.size(height, width):
            continue
        if frame.way == "crop":
            note = f"{frame.in_words}, the target alike"
            explained["crop"] = (image, frame.fit(target), note)
        else:
            (top, _), (left, _) = frame.padding(height, width)
            inside = image[top : top + height, left : left + width]
            explained["pad", top, left] = (inside, target, f"{frame.in_words}, cut back")
    return next(iter(explained.values())) if len(explained) == 1 else None


def align_to_frame(
    image: _Pixels, target: _Pixels, profiles: Sequence[Profile], frame: Frame
) -> tuple[_Pixels, _Pixels, str] | None:
    """Makes the saved image and its target the part of the scene that a protocol measures.

    Args:
      image: `(height, width, 3)`, as saved.
      target: Of the size of the input.
      profiles: That may have cropped or padded the image.
      frame: What the protocol measures.

    Returns:
      As `align`. None also if the image lacks part of the frame: its padding (padding of the same
      size on other sides counts as missing), or what its system has cropped.
    """
    reference = frame.fit(target)
    note = frame.in_words if reference.shape != target.shape else ""
    if image.shape == reference.shape and not _is_padded_otherwise(image, target, profiles, frame):
        return image, reference, note
    aligned = align(image, target, profiles)
    if aligned is None:
        return None
    inside = aligned[0] if frame.way == "pad" else frame.fit(aligned[0])
    return (inside, reference, note) if inside.shape == reference.shape else None


def _is_padded_otherwise(image, target, profiles, frame) -> bool:
    """Returns whether only systems that pad unlike the frame have saved an image of its size."""
    height, width = target.shape[:2]
    if frame.way != "pad" or image.shape == target.shape:
        return False
    saved = [profile.frame for profile in profiles if profile.saves_frame]
    saved = [f for f in saved if f.way == "pad" and f.size(height, width) == image.shape[:2]]
    wanted = frame.padding(height, width), frame.fill
    return bool(saved) and all((f.padding(height, width), f.fill) != wanted for f in saved)
