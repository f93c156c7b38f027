"""Pictures for the log: how an image was before and after, and where the error lies."""

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

ERROR_GAIN = 5  # an error of a fifth of the range is white
_GAP = 4  # white pixels between two panels


def comparison(
    blurred: Float[np.ndarray, "height width channels"],
    restored: Float[np.ndarray, "height width 3"],
    sharp: Float[np.ndarray, "height width 3"],
    longest: int = 512,
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Draws input, output, target and error side by side, a thin white gap between them.

    The error is |output - target|, the mean of its three channels, `ERROR_GAIN` times as bright and
    clipped: gray, black where nothing is wrong.

    Args:
      blurred: RGB in [0, 1]; with six channels two views, of which the mean is shown.
      restored: RGB, clipped to [0, 1]; what is not a number becomes black.
      sharp: RGB in [0, 1].
      longest: longest side of a panel in pixels. Larger panels are shrunk, each pixel the mean of
        what it covers.

    Returns:
      Four panels and three gaps beside each other.
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
