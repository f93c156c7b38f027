r"""Measures the bundled weights: the table of MODEL_CARD.md.

    python -m benchmarks.bundled_weights --pairs FOLDER ... --sharp FOLDER ... [--checkpoint RUN]

`--pairs` are folders of real pairs that `vitdeblur data check` recognizes. `--sharp` are folders of
sharp images. Each sharp image is measured with synthetic defocus (the thin-lens model, seed 0) and
without defocus. Eight of them, evenly spaced, are also measured with one defocus radius for the
whole image and a round aperture. PSNR and SSIM are those of evaluate.py, with the output clipped to
[0, 1]. `--images N` uses N evenly spaced images of each `--sharp`.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vitdeblur_jax.checkpoints.load_save import load_pretrained
from vitdeblur_jax.checkpoints.pretrained import Pretrained
from vitdeblur_jax.cli.process import exit_status
from vitdeblur_jax.data.defocus.apertures import disk
from vitdeblur_jax.data.defocus.settings import SynthesisSettings
from vitdeblur_jax.data.defocus.thin_lens import defocus
from vitdeblur_jax.data.image_io import as_8_bits, list_images, read_rgb
from vitdeblur_jax.data.layouts import find_pairs
from vitdeblur_jax.data.sources import FolderSource, SyntheticSource
from vitdeblur_jax.data.srgb import linear_to_srgb, srgb_to_linear
from vitdeblur_jax.inference.deblurring import deblur
from vitdeblur_jax.inference.pixels import as_float
from vitdeblur_jax.metrics import measure
from vitdeblur_jax.models.layers.views import mean_of_views
from vitdeblur_jax.training.data import validation_indices
from vitdeblur_jax.utils.table import format_table

_IN_FOCUS = 40  # dB; the input PSNR of a synthetic image with hardly any defocus
_RADII = (1, 1.5, 2, 3, 4, 6, 8, 10, 12)  # pixels
_OF_EACH_RADIUS = 8


class Figures(NamedTuple):
    """PSNR, SSIM and color error of an image, for input and output.

    Attributes:
      name: Name of the image, or of the set that the figures are averaged over.
      colour: Absolute difference between the mean of a channel and that of the sharp image, in
        255ths, averaged over the channels.
    """

    name: str
    input_psnr: float
    input_ssim: float
    input_colour: float
    psnr: float
    ssim: float
    colour: float


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--checkpoint", help="by default the bundled weights")
    parser.add_argument("--pairs", nargs="*", default=[], help="folders of real pairs")
    parser.add_argument("--sharp", nargs="*", default=[], help="folders of sharp images")
    parser.add_argument("--images", type=int, default=0, help="images of each --sharp; 0: all")
    options = parser.parse_args()
    if not options.pairs and not options.sharp:
        parser.error("nothing to measure: name folders with --pairs or --sharp")
    pretrained = load_pretrained(options.checkpoint)
    print(pretrained.source)
    for folder in options.pairs:
        figures = of_pairs(pretrained, folder)
        show(f"real pairs of {folder}", [*figures, *means_of(figures)])
    for folder in options.sharp:
        synthetic, undefocused = of_sharp(pretrained, folder, options.images)
        gains = np.array([f.psnr - f.input_psnr for f in synthetic])
        show(
            f"synthetic defocus of {folder}: smallest gain {gains.min():+.2f} dB, "
            f"{np.mean(gains < 0):.0%} of the images get worse",
            means_of(synthetic),
        )
        psnr = np.array(undefocused)
        print(
            f"without defocus, {folder}: PSNR of output against input {psnr.mean():.2f} dB on "
            f"average, minimum {psnr.min():.2f}, {np.mean(psnr < 36):.0%} of the images below 36\n",
            flush=True,
        )
        show(f"one defocus radius, {folder}", of_each_radius(pretrained, folder))


def of_pairs(pretrained: Pretrained, folder: str) -> list[Figures]:
    """Returns the figures of each real pair."""
    source = FolderSource(find_pairs(folder, "pairs"), 8)
    return [
        compare(pretrained, pair.name, source[index]) for index, pair in enumerate(source.pairs)
    ]


def of_sharp(pretrained: Pretrained, folder: str, count: int) -> tuple[list[Figures], list[float]]:
    """Returns figures of synthetic defocus, and the PSNR of restored sharp images."""
    source = SyntheticSource(list_images(Path(folder)), SynthesisSettings(), seed=0)
    figures, undefocused = [], []
    for index in validation_indices(source, count):
        path = source.images[index]
        figures.append(compare(pretrained, path.stem, source[index]))
        sharp = as_float(as_8_bits(read_rgb(path)))
        undefocused.append(measure(deblur(sharp, pretrained).clip(0, 1), sharp)["psnr"])
    return figures, undefocused


def of_each_radius(pretrained: Pretrained, folder: str) -> list[Figures]:
    """Returns mean figures of a few images for each defocus radius."""
    images = list_images(Path(folder))
    indices = validation_indices(images, min(_OF_EACH_RADIUS, len(images)))
    sharp = [as_8_bits(read_rgb(images[index])) for index in indices]
    return [
        mean_of(
            [
                compare(pretrained, "", {"sharp": one, "blurred": out_of_focus(one, radius)})
                for one in sharp
            ],
            f"{radius} pixels",
        )
        for radius in _RADII
    ]


def out_of_focus(sharp: np.ndarray, radius: float) -> np.ndarray:
    """Defocuses an image (H x W x 3, uint8) with a round aperture, without noise."""
    light = srgb_to_linear(as_float(sharp))
    blurred = defocus(light, np.full(sharp.shape[:2], radius, np.float32), disk())
    return np.rint(255 * linear_to_srgb(blurred.clip(0, 1))).astype(np.uint8)


def compare(pretrained: Pretrained, name: str, pair: Mapping[str, np.ndarray]) -> Figures:
    """Returns the figures of a pair of images, integers or floats in [0, 1]."""
    blurred, sharp = as_float(pair["blurred"]), as_float(pair["sharp"])
    figures = []
    for image in mean_of_views(blurred), deblur(blurred, pretrained).clip(0, 1):
        colour = 255 * np.abs(image.mean((0, 1)) - sharp.mean((0, 1))).mean()
        figures += [*measure(image, sharp, ("psnr", "ssim")).values(), colour]
    return Figures(name, *figures)


def mean_of(figures: Sequence[Figures], name: str) -> Figures:
    """Returns the means of the figures."""
    return Figures(name, *np.mean([f[1:] for f in figures], axis=0))


def means_of(figures: Sequence[Figures]) -> list[Figures]:
    """Returns the mean of all, and the mean of the clearly defocused images if they are fewer."""
    defocused = [f for f in figures if f.input_psnr < _IN_FOCUS]
    means = [mean_of(figures, f"mean of {len(figures)}")]
    if 0 < len(defocused) < len(figures):
        name = f"mean of {len(defocused)} with an input below {_IN_FOCUS} dB"
        means.append(mean_of(defocused, name))
    return means


def show(title: str, figures: Sequence[Figures]) -> None:
    """Prints a table."""
    heads = ("", "input PSNR", "output", "gain", "input SSIM", "output", "input colour", "output")
    rows = [
        (
            f.name,
            *(f"{value:.2f}" for value in (f.input_psnr, f.psnr)),
            f"{f.psnr - f.input_psnr:+.2f}",
            *(f"{value:.4f}" for value in (f.input_ssim, f.ssim)),
            *(f"{value:.2f}" for value in (f.input_colour, f.colour)),
        )
        for f in figures
    ]
    print(title)
    print(format_table(heads, rows))
    print(flush=True)


if __name__ == "__main__":
    sys.exit(exit_status(main))
