"""A batch at a glance: examples laid out as one image."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8, UInt16
from PIL import Image, ImageDraw

_Image = UInt8[np.ndarray, "height width 3"]

_GAP, _CAPTION = 8, 16  # pixels
_PAPER, _INK = (32, 32, 32), (224, 224, 224)
_COLOURS = [(33, 102, 172), (247, 247, 247), (178, 24, 43)]  # ends and middle of ColorBrewer's RdBu


def contact_sheet(examples: Sequence[Mapping[str, str | np.ndarray]]) -> _Image:
    """Lay out examples as rows: each view of the blurred image, the sharp one, the radius.

    Args:
        examples: One or more. Each has `blurred`, H x W x (3 * views), and where known `sharp`,
            H x W x 3, both uint8 or uint16; `radius`, H x W, the signed blur radius in pixels; and
            `name`. Sizes may differ.

    Returns:
        The sheet, with the images in their own size. The radius is blue in front of the plane of
        focus, white in it and red behind it, fullest at the largest radius of the sheet; the
        caption tells its range.
    """
    largest = max(
        (float(np.abs(e["radius"]).max()) for e in examples if "radius" in e), default=1.0
    )
    rows = [_images(example, max(largest, 1e-6)) for example in examples]
    widths = [sum(image.shape[1] + _GAP for image in row) + _GAP for row in rows]
    heights = [max(image.shape[0] for image in row) + _CAPTION + _GAP for row in rows]
    sheet = Image.new("RGB", (max(widths), sum(heights)), _PAPER)
    top = 0
    for example, row, height in zip(examples, rows, heights, strict=True):
        ImageDraw.Draw(sheet).text((_GAP, top + 2), _caption(example), fill=_INK)
        left = _GAP
        for image in row:
            sheet.paste(Image.fromarray(image), (left, top + _CAPTION))
            left += image.shape[1] + _GAP
        top += height
    return np.asarray(sheet)


def colour_radius(radius: Float[np.ndarray, "height width"], largest: float) -> _Image:
    """Show signed radii as colours: blue at -largest, white at 0, red at largest."""
    place = np.clip(radius / largest, -1, 1)
    channels = [np.interp(place, (-1, 0, 1), channel) for channel in zip(*_COLOURS, strict=True)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def _images(example: Mapping[str, str | np.ndarray], largest: float) -> list[_Image]:
    blurred = example["blurred"]
    images = np.split(blurred, blurred.shape[-1] // 3, axis=-1)
    images += [example["sharp"]] if "sharp" in example else []
    images = [_to_8_bits(image) for image in images]
    return images + ([colour_radius(example["radius"], largest)] if "radius" in example else [])


def _to_8_bits(
    image: UInt8[np.ndarray, "height width 3"] | UInt16[np.ndarray, "height width 3"],
) -> _Image:
    return image if image.dtype == np.uint8 else (image >> 8).astype(np.uint8)


def _caption(example: Mapping[str, str | np.ndarray]) -> str:
    words = [str(example.get("name", ""))]
    if "radius" in example:
        words.append(
            f"radius {example['radius'].min():.1f} to {example['radius'].max():.1f} pixels"
        )
    return "  ".join(filter(None, words))
