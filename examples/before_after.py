"""Restores a defocused image with the bundled model and draws the figure of the README.

    python examples/before_after.py docs/before_after.png

On the left is a part of `images/defocused/building.jpg` with a defocus radius of about six pixels,
on the right the same part, restored.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import vitdeblur_jax as vd
from vitdeblur_jax.data.image_io import read_rgb

IMAGE = Path(__file__).parent / "images/defocused/building.jpg"
TOP, LEFT, SIDE, GAP = 90, 480, 400, 8


def draw() -> np.ndarray:
    """Returns both parts side by side with a white gap, uint8."""
    blurred = read_rgb(IMAGE)
    restored = vd.deblur(blurred, vd.load_pretrained())
    part = slice(TOP, TOP + SIDE), slice(LEFT, LEFT + SIDE)
    gap = np.full((SIDE, GAP, 3), 255, np.uint8)
    return np.hstack([blurred[part], gap, restored[part]])


if __name__ == "__main__":
    (figure,) = sys.argv[1:] or ["before_after.png"]
    Image.fromarray(draw()).save(figure, optimize=True)
