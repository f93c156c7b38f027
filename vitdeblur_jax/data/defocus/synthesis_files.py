"""Writes synthetic pairs to image files, for inspection and for use in other code."""

import json
import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from vitdeblur_jax.data.defocus.settings import SynthesisSettings
from vitdeblur_jax.data.defocus.synthesis import synthesize
from vitdeblur_jax.data.image_io import (
    DecodedImage,
    as_8_bits,
    left_out,
    list_images,
    read_rgb,
    write_image,
)
from vitdeblur_jax.utils.buckets import check_on_disk
from vitdeblur_jax.utils.errors import UserError, one_line
from vitdeblur_jax.utils.files import write_text
from vitdeblur_jax.utils.json_files import read_json
from vitdeblur_jax.utils.output import tell
from vitdeblur_jax.utils.progress import Progress

_JOURNAL = "synthesis.json"


def generator_for(name: str, seed: int) -> np.random.Generator:
    """Returns the random generator of an image. It depends on its name and not on its position."""
    return np.random.default_rng([seed, *os.fsencode(name)])


def synthesize_folder(
    sharp_folder: str | os.PathLike[str],
    out_folder: str | os.PathLike[str],
    settings: SynthesisSettings,
    seed: int,
    *,
    overwrite: bool = False,
) -> int:
    """Writes a pair for each image of a folder, in the layout `pairs`.

    The files are `input/NAME.png` and `target/NAME.png` with 8 bits per channel, the upper 8 of 16
    bits. With dual pixels, `input_left` and `input_right` replace `input`. `synthesis.json` has
    the source, the seed and the settings. A call with the same ones resumes after an interruption.
    Skipped files and the number of existing pairs are reported on standard error.

    Args:
        sharp_folder: Holds the images.
        out_folder: Is made where it is missing.
        settings: How to draw.
        seed: 0 or above. A pair depends on it and on the image's name, not on the others.
        overwrite: Write all pairs anew, also those of another source, seed or other settings.

    Returns:
        The number of pairs.

    Raises:
        UserError: No images, two of one name, a broken one, pairs that exist already from
            another seed, other settings or another source, a pair that would replace an image of
            `sharp_folder`, a negative seed, or a folder that cannot be written.
    """
    check_on_disk(out_folder, "pairs")
    if seed < 0:
        raise UserError(f"the seed is {seed}; it must be 0 or more")
    images = list_images(sharp_folder)
    if line := left_out(sharp_folder):
        tell(line)
    inputs = ("input_left", "input_right") if settings.dual_pixel else ("input",)
    folders = [Path(out_folder) / name for name in (*inputs, "target")]
    recipe = {"source": os.path.realpath(sharp_folder), "seed": seed, **asdict(settings)}
    begun = _begin(images, folders, recipe, overwrite)
    waiting = [path for path in images if not _is_done(path, folders, begun)]
    if len(waiting) < len(images):
        tell(f"{len(images) - len(waiting)} of {len(images)} pairs are done already")
    with Progress(len(waiting), "images") as progress:
        for path in waiting:
            sharp = as_8_bits(read_rgb(path))
            example = synthesize(sharp, settings, generator_for(path.stem, seed))
            views = np.split(example["blurred"], len(inputs), axis=-1)
            for target, image in zip(_targets(path, folders), (*views, sharp), strict=True):
                write_image(DecodedImage(image), target)
            progress.advance()
    return len(images)


def _begin(images: list[Path], folders: list[Path], recipe: dict[str, Any], overwrite: bool) -> int:
    """Checks that no files would be lost, then makes the folders and the journal.

    Returns:
        The time of the first start in nanoseconds. Older files are replaced.
    """
    stems = [path.stem for path in images]
    twice = [stem for stem, count in Counter(stems).items() if count > 1]
    if twice:
        folder = images[0].parent
        raise UserError(f"{folder}: two images have the name {twice[0]}; rename one of them")
    out, recipe = folders[0].parent, json.loads(json.dumps(recipe))
    journal = out / _JOURNAL
    resumes = not overwrite and journal.is_file() and read_json(journal) == recipe
    targets = [target for path in images for target in _targets(path, folders)]
    there = [target for target in targets if target.exists()]
    sources = {_identity(path) for path in images}
    replaced = next((target for target in there if _identity(target) in sources), None)
    if replaced:
        raise UserError(f"{replaced} is an input, and would be overwritten; choose another folder")
    if there and not (resumes or overwrite):
        of = " from another folder, another seed or other settings" if journal.is_file() else ""
        raise UserError(f"{there[0]} exists{of}; choose another folder, or overwrite with --force")
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        if not resumes:
            write_text(journal, json.dumps(recipe, indent=1) + "\n")
        return journal.stat().st_mtime_ns
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({one_line(error)})") from error


def _identity(path: Path) -> tuple[int, int]:
    """Identifies a file whatever its name: disks may ignore case, and files may have two names."""
    found = path.stat()
    return found.st_dev, found.st_ino


def _targets(image: Path, folders: list[Path]) -> list[Path]:
    return [folder / f"{image.stem}.png" for folder in folders]


def _is_done(image: Path, folders: list[Path], begun: int) -> bool:
    """Returns whether a pair was written after `begun` and after the last change of its image."""
    try:
        source = image.stat()
        written = min(target.stat().st_mtime_ns for target in _targets(image, folders))
    except OSError:
        return False
    return written >= max(begun, source.st_mtime_ns, source.st_ctime_ns)
