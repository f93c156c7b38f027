"""The training, held-out and validation examples of a data set."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vitdeblur_jax.data.defocus.settings import SynthesisSettings
from vitdeblur_jax.data.image_io import left_out, list_images, size_of
from vitdeblur_jax.data.input_pipeline import Source
from vitdeblur_jax.data.layouts import find_pairs
from vitdeblur_jax.data.pairs import Pair, check_sizes, describe
from vitdeblur_jax.data.sources import INFO, FolderSource, PreparedSource, SyntheticSource
from vitdeblur_jax.distributed.processes import is_first
from vitdeblur_jax.training.data_sets import DataSet
from vitdeblur_jax.utils.errors import UserError, one_line
from vitdeblur_jax.utils.output import tell

Items = Sequence[Pair] | Sequence[Path] | PreparedSource
_MOST_SIZES_READ = 1000
_DIGITS = 16


def split_off(data_set: DataSet) -> tuple[Items, Items]:
    """Returns the training examples and the held-out ones.

    Raises:
      UserError: The data does not exist, or no examples remain for training.
    """
    settings, path = data_set.settings, data_set.path
    _check_root(data_set, settings.root)
    if settings.kind == "prepared":
        if settings.hold_out:
            raise UserError(
                f"{path}.hold_out is for pairs and synthetic data; a prepared data set has its own "
                f"splits: set {_split_key(data_set)}"
            )
        return PreparedSource(settings.root, settings.split), ()
    items = _items(settings, settings.root, settings.split)
    sharp = sorted({file for item in items if (file := _sharp_file(item))})
    aside = set(spread(sharp, settings.hold_out))
    kept = [item for item in items if _sharp_file(item) not in aside]
    if not kept:
        raise UserError(
            f"{settings.root}: {path}.hold_out is {settings.hold_out}, so all {len(sharp)} sharp "
            "images are held out and none remain for training; lower it"
        )
    return kept, [item for item in items if _sharp_file(item) in aside]


def validation_items(data_set: DataSet, held_out: Items, root: str) -> Items:
    """Returns the validation examples: the held-out ones, or else the validation split.

    Args:
      data_set: The data set.
      held_out: The held-out examples, of `split_off`.
      root: A folder that replaces the root of the data set; "" for none.

    Raises:
      UserError: The data does not exist.
    """
    settings = data_set.settings
    if settings.hold_out:
        return held_out
    root = root or settings.root
    _check_root(data_set, root)
    if settings.kind == "prepared":
        return PreparedSource(root, settings.validation_split)
    return _items(settings, root, settings.validation_split)


def make_source(data_set: DataSet, items: Items, seed: int, crop: int | None) -> Source:
    """Returns the source of examples; synthetic ones are crops of side `crop`, None: whole."""
    if isinstance(items, PreparedSource):
        return items
    if data_set.settings.kind == "pairs":
        return FolderSource(items, data_set.settings.bit_depth)
    return SyntheticSource(items, synthesis_settings(data_set), seed, crop=crop)


def synthesis_settings(data_set: DataSet) -> SynthesisSettings:
    """Returns the settings of synthetic defocus of a data set."""
    values = data_set.settings.synthesis.to_dict()
    del values["device"]  # where, not how
    return SynthesisSettings(**{key: _plain(value) for key, value in values.items()})


def identities(items: Items) -> set[Any]:
    """Returns keys, one of which two lists share if they share a sharp image or a split."""
    if isinstance(items, PreparedSource):
        return {(items.folder.resolve(), items.split)}
    files = {item: _sharp_file(item) for item in items}
    return {file or item for item, file in files.items()}


def fingerprint(items: Items) -> dict[str, Any]:
    """Identifies examples independent of their folder.

    Returns:
      `examples`, their number, and `digest`, a hash of their names and of the sizes of at most 1000
      files.

    Raises:
      UserError: A file cannot be read.
    """
    try:
        if isinstance(items, PreparedSource):
            traits = [(items.folder / INFO).read_text(encoding="utf-8")]
        else:
            files = map(_sharp_file, spread(items, _MOST_SIZES_READ))
            sizes = [os.path.getsize(file) for file in files if file]
            traits = [*(item.name for item in items), *map(str, sizes)]
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({one_line(error)})") from error
    digest = hashlib.sha256("\n".join(traits).encode("utf-8", "surrogateescape"))
    return {"examples": len(items), "digest": digest.hexdigest()[:_DIGITS]}


def check_example(example: dict[str, Any], views: int) -> None:
    """Raises `UserError` unless an example has these views and a sharp image."""
    found = example["blurred"].shape[-1] // 3
    if found != views:
        raise UserError(
            f"{example['name']} has {found} view{'s' * (found > 1)}, but the network takes {views}"
        )
    if "sharp" not in example:
        raise UserError(
            f"{example['name']}: has no sharp image; training and validation need pairs"
        )


def check_crop(source: Source, crop: int) -> None:
    """Raises `UserError` if the crop is larger than an image; reads at most 1000 sizes."""
    if isinstance(source, PreparedSource):
        first = source[0]  # only one, because it must be decoded
        return _check_size(first["name"], first["blurred"].shape[1::-1], crop)
    for index in spread(range(len(source)), _MOST_SIZES_READ):
        path = source.files(index)[0]
        if isinstance(source, FolderSource):
            check_sizes([source.pairs[index]])
        size = size_of(path)
        if size is not None:  # otherwise reading the image gives the reason
            _check_size(path, size, crop)


def spread(items: Sequence, count: int) -> list:
    """Returns `count` evenly spaced items, or all items if there are fewer."""
    if not count:
        return []
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[place] for place in places]


def _check_root(data_set, root):
    if not root:
        raise UserError(f"--config.{data_set.path}.root is missing: the folder of the data")


def _items(settings, root, split: str) -> list[Pair] | list[Path]:
    """Returns pairs or images; process 0 prints the rule that pairs files, and what is skipped."""
    if settings.kind == "pairs":
        pairs = find_pairs(root, settings.layout, split)
        if is_first() and (paired := describe(pairs)):
            tell(f"{root}, {split}: {paired}")
        return pairs
    if not Path(root).is_dir():
        raise UserError(f"there is no folder {str(root)!r} of images")
    images = list_images(root)
    if is_first() and (line := left_out(root)):
        tell(line)
    return images


def _sharp_file(item: Pair | Path) -> Path | None:
    return item.target if isinstance(item, Pair) else item


def _split_key(data_set: DataSet) -> str:
    return f"{data_set.path}.validation_split" if data_set.name else "validation.split"


def _plain(value):
    return tuple(value) if isinstance(value, (list, tuple)) else value


def _check_size(name, size, crop):
    if crop > min(size):
        raise UserError(
            f"crop is {crop} pixels, but {name} has {size[0]} x {size[1]}; choose a smaller crop, "
            "or remove this image"
        )
