"""Measures how beaded a slanted edge looks after restoration, and shows it on a photo.

    python -m benchmarks.beads beads.png [--checkpoint RUN]

Beads are strongest where the tokens of overlapping windows coincide: with a window stride that is a
multiple of the patch stride, such as 48. Prints their size for this stride and for the model's own.
The figure shows a part of `examples/images/defocused/building.jpg` at 300 %: defocused, restored
with a stride of 48, and restored with the model's own.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from vitdeblur_jax.checkpoints.load_save import load_pretrained
from vitdeblur_jax.checkpoints.pretrained import Pretrained
from vitdeblur_jax.cli.process import exit_status
from vitdeblur_jax.data.image_io import read_rgb
from vitdeblur_jax.inference.deblurring import deblur
from vitdeblur_jax.models.network import tiling_of
from vitdeblur_jax.models.tilings import Windows
from vitdeblur_jax.utils.errors import UserError

IMAGE = Path(__file__).parents[1] / "examples/images/defocused/building.jpg"
TOP, LEFT, SIDE, ZOOM, GAP = 84, 590, 110, 3, 8
COINCIDING = 48  # a multiple of the patch stride, 8


def main() -> None:
    """Prints the sizes of the beads and draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("figure", help="the PNG to write")
    parser.add_argument("--checkpoint", help="by default the bundled weights")
    options = parser.parse_args()
    pretrained = load_pretrained(options.checkpoint)
    tiling = tiling_of(pretrained.model)
    if not isinstance(tiling, Windows):
        raise UserError(f"{pretrained.source}: its network has no overlapping windows")
    blurred = read_rgb(IMAGE)
    images = [blurred]
    for stride in COINCIDING, tiling.stride:
        print(f"stride {stride}: beads {size_of_beads(pretrained, stride):.2f}", flush=True)
        images.append(deblur(blurred, pretrained, stride=stride))
    Image.fromarray(side_by_side(images)).save(options.figure, optimize=True)


def size_of_beads(pretrained: Pretrained, stride: int | None = None) -> float:
    """Returns how much a restored edge varies along its direction, in 255ths; 0 is straight.

    The edge has the slope 4 and is about 6 pixels wide. The result is the standard deviation of
    the pixels near it from the mean of their line along the edge.

    Args:
      pretrained: The model.
      stride: See `deblur`.
    """
    y, x = np.mgrid[:192, :192]
    line = 4 * x + y  # all pixels of one value lie on one line along the edge
    blurred = 0.35 + 0.5 / (1 + np.exp(-(line - line.mean()) / 3))
    image = np.dstack([blurred.astype(np.float32)] * 3)
    restored = deblur(image, pretrained, stride=stride).mean(axis=-1)
    inner = slice(32, -32), slice(32, -32)
    is_near = np.abs(line - line.mean())[inner] < 20
    line, restored = line[inner][is_near], restored[inner][is_near]
    profile = np.bincount(line, restored) / np.maximum(np.bincount(line), 1)
    return float(255 * (restored - profile[line]).std())


def side_by_side(images: list[np.ndarray]) -> np.ndarray:
    """Returns the same part of each image, enlarged, with white gaps between them, uint8."""
    shown = slice(TOP, TOP + SIDE), slice(LEFT, LEFT + SIDE)
    enlarged = [image[shown].repeat(ZOOM, axis=0).repeat(ZOOM, axis=1) for image in images]
    gap = np.full((ZOOM * SIDE, GAP, 3), 255, np.uint8)
    return np.hstack([enlarged[0], *(part for image in enlarged[1:] for part in (gap, image))])


if __name__ == "__main__":
    sys.exit(exit_status(main))
