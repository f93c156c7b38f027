r"""What the bundled weights do, figure by figure: the table of MODEL_CARD.md.

    python -m benchmarks.bundled_weights --pairs FOLDER ... --sharp FOLDER ... [--checkpoint RUN]

`--pairs` are real pairs of blurred and sharp photographs, in folders that `vitdeblur data check`
knows as pairs; `--sharp` are sharp photographs, put out of focus as a whole by the thin-lens model
with seed 0, and restored as they are, too. PSNR and SSIM are those of evaluate.py, of the output
clipped to [0, 1]. `--photographs N` takes N of each `--sharp`, spread evenly.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vitdeblur_jax.checkpoints import Pretrained, load_pretrained
from vitdeblur_jax.data.images import as_8_bits, list_photographs, read_rgb
from vitdeblur_jax.data.layouts import find_pairs
from vitdeblur_jax.data.pipelines import Source
from vitdeblur_jax.data.sources import FolderSource, SyntheticSource
from vitdeblur_jax.data.synthesis import SynthesisSettings
from vitdeblur_jax.deblurring import deblur
from vitdeblur_jax.metrics import measure
from vitdeblur_jax.photograph import as_float
from vitdeblur_jax.table import format_table
from vitdeblur_jax.training.data import validation_records
from vitdeblur_jax.training.validation import validate

_IN_FOCUS = 40  # dB of a synthetic photograph that is out of focus by a trace only


class Figures(NamedTuple):
    """Of one photograph: PSNR and SSIM of the input and of the output."""

    name: str
    input_psnr: float
    psnr: float
    input_ssim: float
    ssim: float


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--checkpoint", help="by default the bundled weights")
    parser.add_argument("--pairs", nargs="*", default=[], help="folders of real pairs")
    parser.add_argument("--sharp", nargs="*", default=[], help="folders of sharp photographs")
    parser.add_argument("--photographs", type=int, default=0, help="of each --sharp; 0: all")
    options = parser.parse_args()
    pretrained = load_pretrained(options.checkpoint)
    print(pretrained.source)
    for folder in options.pairs:
        show(f"real pairs of {folder}", of_pairs(pretrained, folder), each=True)
    for folder in options.sharp:
        synthetic, undefocused = of_sharp(pretrained, folder, options.photographs)
        show(f"synthetic defocus of {folder}", synthetic, each=False)
        psnr = np.array(undefocused)
        print(
            f"left as they are, {folder}: output against input {psnr.mean():.2f} dB on average, "
            f"{psnr.min():.2f} at the least, {np.mean(psnr < 36):.0%} below 36\n",
            flush=True,
        )


def of_pairs(pretrained: Pretrained, folder: str) -> list[Figures]:
    """Returns the figures of each real pair."""
    source = FolderSource(find_pairs(folder, "pairs"), 8)
    names = [pair.name for pair in source.pairs]
    return [compare(pretrained, source, record, name) for record, name in enumerate(names)]


def of_sharp(pretrained: Pretrained, folder: str, count: int) -> tuple[list[Figures], list[float]]:
    """Returns figures of synthetic defocus, and PSNR of what is made of the sharp photographs."""
    source = SyntheticSource(list_photographs(Path(folder)), SynthesisSettings(), seed=0)
    figures, undefocused = [], []
    for record in validation_records(source, count):
        path = source.photographs[record]
        figures.append(compare(pretrained, source, record, path.stem))
        sharp = as_float(as_8_bits(read_rgb(path)))
        undefocused.append(measure(deblur(sharp, pretrained).clip(0, 1), sharp)["psnr"])
    return figures, undefocused


def compare(pretrained: Pretrained, source: Source, record: int, name: str) -> Figures:
    """Returns the figures of one example, as training's validation measures them."""
    means, _ = validate(pretrained, source, [record], pictures=0)
    return Figures(name, *(means[key] for key in Figures._fields[1:]))


def mean_of(figures: list[Figures], name: str) -> Figures:
    """Returns the means of the figures."""
    return Figures(name, *np.mean([f[1:] for f in figures], axis=0))


def show(title: str, figures: list[Figures], each: bool) -> None:
    """Prints a table: each photograph, if wanted; the mean; that of those clearly out of focus."""
    defocused = [f for f in figures if f.input_psnr < _IN_FOCUS]
    means = [mean_of(figures, f"mean of {len(figures)}")]
    if 0 < len(defocused) < len(figures):
        name = f"mean of {len(defocused)} with an input below {_IN_FOCUS} dB"
        means.append(mean_of(defocused, name))
    rows = [
        (
            f.name,
            *(f"{value:.2f}" for value in (f.input_psnr, f.psnr)),
            f"{f.psnr - f.input_psnr:+.2f}",
            *(f"{value:.4f}" for value in (f.input_ssim, f.ssim)),
        )
        for f in ([*figures, *means] if each else means)
    ]
    gains = np.array([f.psnr - f.input_psnr for f in figures])
    print(f"{title}: the least gain {gains.min():+.2f} dB, {np.mean(gains < 0):.0%} lose")
    print(format_table(("", "input PSNR", "output", "gain", "input SSIM", "output"), rows))
    print(flush=True)


if __name__ == "__main__":
    main()
