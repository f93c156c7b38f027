r"""Compares the defocus of real pairs with synthetic defocus of the same scenes.

    python -m benchmarks.real_defocus FOLDER ... [--checkpoint RUN]

Each FOLDER has the layout `pairs`, see docs/data.md. The sharp image of each pair is blurred
uniformly with many radii, and each pixel takes the radius whose result is nearest to the real
image, in its neighborhood. This is done for a disk and the sRGB curve, for other tone curves, then
for apertures with more or less light at the rim. The table has, for each pair:

- the best tone and falloff (see `SynthesisSettings`), and the median radius in pixels
- the PSNR between the real image and the synthetic one, for the disk and for the best fit
- the median shift of blocks between the real image and the best fit, in pixels
- the gain in PSNR of the model on the real image, on the disk's, and on the best fit. If the gain
  on the real image is much lower than on the best fit, synthetic defocus still lacks something.

The synthetic images have no noise and no occlusion.
"""

import argparse
import operator
import sys
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from benchmarks.bundled_weights import compare
from vitdeblur_jax.checkpoints.load_save import load_pretrained
from vitdeblur_jax.cli.process import exit_status
from vitdeblur_jax.data.defocus.apertures import disk
from vitdeblur_jax.data.defocus.thin_lens import defocus
from vitdeblur_jax.data.layouts import find_pairs
from vitdeblur_jax.data.sources import FolderSource
from vitdeblur_jax.data.srgb import linear_to_srgb, srgb_to_linear
from vitdeblur_jax.inference.pixels import as_float
from vitdeblur_jax.metrics import measure
from vitdeblur_jax.models.layers.views import mean_of_views
from vitdeblur_jax.utils.table import format_table

RADII = (0, *np.arange(0.75, 2, 0.25), *np.arange(2, 8, 0.5), *range(8, 15))
TONES = 0.7, 0.8, 0.9, 1.1
FALLOFFS = -0.5, 0.5, 1.0
_NEIGHBORHOOD = 16  # pixels, the standard deviation of a Gaussian
_BLOCK = 128  # pixels, side of a block

_Image = Float[np.ndarray, "height width 3"]


class Fit(NamedTuple):
    """The synthetic image that is nearest to a real one.

    Attributes:
      psnr: PSNR between both in dB.
      image: The synthetic image.
      radius: The median of its defocus radii.
      tone: See `SynthesisSettings`.
      falloff: See `SynthesisSettings`.
    """

    psnr: float
    image: _Image
    radius: float
    tone: float
    falloff: float


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="folders of real pairs")
    parser.add_argument("--checkpoint", help="by default the bundled weights")
    options = parser.parse_args()
    pretrained = load_pretrained(options.checkpoint)
    rows = []
    for folder in options.folders:
        source = FolderSource(find_pairs(folder, "pairs"), 8)
        for index, pair in enumerate(source.pairs):
            example = source[index]
            blurred, sharp = as_float(example["blurred"]), as_float(example["sharp"])
            real = mean_of_views(blurred)
            plain = fit(real, sharp)
            best = best_fit(real, sharp, plain)
            figures = [
                compare(pretrained, pair.name, {"blurred": image, "sharp": sharp})
                for image in (blurred, plain.image, best.image)
            ]
            rows.append(
                (
                    pair.name,
                    *(f"{value:g}" for value in (best.tone, best.falloff, best.radius)),
                    *(f"{value:.1f}" for value in (plain.psnr, best.psnr)),
                    f"{block_shift(best.image.mean(-1), real.mean(-1)):.2f}",
                    *(f"{f.psnr - f.input_psnr:+.2f}" for f in figures),
                )
            )
            print(pair.name, file=sys.stderr)
    fitted = "PSNR: disk", "best fit", "shift"
    gained = "gain: real", "disk", "best fit"
    print(format_table(("", "tone", "falloff", "radius", *fitted, *gained), rows))


def best_fit(real: _Image, sharp: _Image, plain: Fit) -> Fit:
    """Returns the best fit of all tones with a disk, then of all falloffs with that tone.

    `plain` is the fit with tone 1 and falloff 0; see `fit` for the images.
    """
    psnr = operator.attrgetter("psnr")
    uniform = max([plain, *(fit(real, sharp, tone) for tone in TONES)], key=psnr)
    uneven = [fit(real, sharp, uniform.tone, falloff) for falloff in FALLOFFS]
    return max([uniform, *uneven], key=psnr)


def fit(real: _Image, sharp: _Image, tone: float = 1.0, falloff: float = 0.0) -> Fit:
    """Returns the fit with a tone curve and a falloff, by default sRGB's curve and a disk.

    Args:
      real: sRGB in [0, 1].
      sharp: The same scene in focus, sRGB in [0, 1].
      tone: See `SynthesisSettings`.
      falloff: See `SynthesisSettings`.
    """
    light, aperture = srgb_to_linear(sharp) ** tone, disk()._replace(falloff=falloff)
    least = np.full(real.shape[:2], np.inf)
    image, radii = sharp.copy(), np.zeros(real.shape[:2])
    for radius in RADII:
        blurred = defocus(light, np.full(real.shape[:2], radius, np.float32), aperture)
        blurred = linear_to_srgb(blurred.clip(0, 1) ** (1 / tone))
        error = ndimage.gaussian_filter(((blurred - real) ** 2).sum(-1), _NEIGHBORHOOD)
        is_better = error < least
        least[is_better], radii[is_better] = error[is_better], radius
        image[is_better] = blurred[is_better]
    return Fit(measure(image, real)["psnr"], image, float(np.median(radii)), tone, falloff)


def block_shift(
    image: Float[np.ndarray, "height width"], other: Float[np.ndarray, "height width"]
) -> float:
    """Returns the median length of the shifts between the blocks of two images, in pixels.

    Shifts of less than a pixel are measured by least squares (B. Lucas, T. Kanade, "An iterative
    image registration technique with an application to stereo vision", IJCAI 1981).
    """
    slopes = np.stack(np.gradient(ndimage.gaussian_filter((image + other) / 2, 1)), axis=-1)
    difference = ndimage.gaussian_filter(image - other, 1)
    lengths = []
    for row in range(0, max(image.shape[0] - _BLOCK, 0) + 1, _BLOCK):
        for column in range(0, max(image.shape[1] - _BLOCK, 0) + 1, _BLOCK):
            block = np.s_[row : row + _BLOCK, column : column + _BLOCK]
            shift, *_ = np.linalg.lstsq(slopes[block].reshape(-1, 2), difference[block].ravel())
            lengths.append(np.hypot(*shift))
    return float(np.median(lengths))


if __name__ == "__main__":
    sys.exit(exit_status(main))
