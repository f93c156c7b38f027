"""Synthetic pairs in files, for a look and for other people's code."""

import os
from pathlib import Path

import numpy as np

from vitdeblur_jax.data.image_io import (
    Photograph,
    as_8_bits,
    list_photographs,
    read_rgb,
    write_photograph,
)
from vitdeblur_jax.data.synthesis import SynthesisSettings, synthesize
from vitdeblur_jax.errors import UserError, one_line
from vitdeblur_jax.progress import Progress

_BYTES = 256  # a byte's values


def generator_for(name: str, seed: int, epoch: int = 0) -> np.random.Generator:
    """Return the generator that a photograph of this name has, wherever it comes in the order."""
    later = [_BYTES + epoch] if epoch else []  # no byte of a name is as large
    return np.random.default_rng([seed, *os.fsencode(name), *later])


def synthesize_folder(
    sharp_folder: str | os.PathLike[str],
    out_folder: str | os.PathLike[str],
    settings: SynthesisSettings,
    seed: int,
    *,
    overwrite: bool = False,
) -> int:
    """Write a pair for each photograph of a folder, in the layout `pairs`.

    Files are `input/NAME.png` and `target/NAME.png`, 8 bits; of 16 bits the upper 8 are taken. With
    dual pixels the views are `input_left` and `input_right` instead of `input`.

    Args:
        sharp_folder: Holds the photographs.
        out_folder: Is made where it is missing.
        settings: How to draw.
        seed: 0 or above. A pair depends on it and on the photograph's name, not on the others.
        overwrite: Replace pairs that exist.

    Returns:
        The number of pairs.

    Raises:
        UserError: No photographs, two of one name, a broken one, pairs that exist already, or a
            folder that cannot be written.
    """
    photographs = list_photographs(sharp_folder)
    inputs = ("input_left", "input_right") if settings.dual_pixel else ("input",)
    folders = [Path(out_folder) / name for name in (*inputs, "target")]
    _check(photographs, folders, overwrite)
    with Progress(len(photographs), "photographs") as progress:
        for path in photographs:
            sharp = as_8_bits(read_rgb(path))
            example = synthesize(sharp, settings, generator_for(path.stem, seed))
            views = np.split(example["blurred"], len(inputs), axis=-1)
            for folder, image in zip(folders, (*views, sharp), strict=True):
                write_photograph(Photograph(image), folder / f"{path.stem}.png")
            progress.advance()
    return len(photographs)


def _check(photographs: list[Path], folders: list[Path], overwrite: bool) -> None:
    """Refuse, before any work, what would lose files; make the folders."""
    seen = set()
    for path in photographs:
        if path.stem in seen:
            raise UserError(f"{path.parent}: two photographs are called {path.stem}; rename one")
        seen.add(path.stem)
        existing = [folder / f"{path.stem}.png" for folder in folders]
        existing = [target for target in existing if target.exists()]
        if existing and not overwrite:
            raise UserError(f"{existing[0]} exists: choose another folder, or ask to overwrite")
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({one_line(error)})") from error
