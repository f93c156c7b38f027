"""Images for the log: input, output, target and error side by side."""

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

ERROR_GAIN = 5  # an error of 0.2 is white
_GAP = 4  # pixels


def comparison(
    blurred: Float[np.ndarray, "height width channels"],
    restored: Float[np.ndarray, "height width 3"],
    sharp: Float[np.ndarray, "height width 3"],
    longest: int = 512,
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Returns an image of input, output, target and error side by side, with white gaps.

    The error panel is gray: |output - target|, averaged over the channels, times `ERROR_GAIN`,
    clipped to [0, 1].

    Args:
      blurred: RGB in [0, 1], or two views in six channels, whose mean is shown.
      restored: RGB; clipped to [0, 1], with NaN shown as black.
      sharp: RGB in [0, 1].
      longest: Longest side of a panel, pixels. Larger images are reduced with a box filter.
    """
    height, width = sharp.shape[:2]
    views = blurred.reshape(height, width, -1, 3)
    output, target = _in_range(restored), _in_range(sharp)
    error = np.abs(output - target).mean(-1, keepdims=True) * ERROR_GAIN
    images = (_in_range(views.mean(2)), output, target, _in_range(error.repeat(3, -1)))
    panels = [_panel(image, longest) for image in images]
    gap = np.full((panels[0].shape[0], _GAP, 3), 255, np.uint8)
    return np.hstack([panels[0], *(part for panel in panels[1:] for part in (gap, panel))])


def _in_range(image):
    return np.nan_to_num(np.clip(image.astype(np.float32), 0, 1), nan=0.0)


def _panel(image, longest):
    pixels = Image.fromarray(np.rint(255 * image).astype(np.uint8))
    scale = min(1, longest / max(pixels.size))
    size = tuple(max(1, round(scale * side)) for side in pixels.size)
    return np.asarray(pixels.resize(size, Image.Resampling.BOX))
