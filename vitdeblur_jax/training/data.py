"""The examples of a run: source, validation images, and the batch of each step."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from vitdeblur_jax.data.defocus.settings import SynthesisSettings
from vitdeblur_jax.data.image_io import left_out, list_images, size_of
from vitdeblur_jax.data.input_pipeline import Source, make_train_dataset
from vitdeblur_jax.data.layouts import find_pairs
from vitdeblur_jax.data.pairs import Pair, check_sizes, describe
from vitdeblur_jax.data.prefetch import DeviceBatches, TrainBatches, prefetch_to_device
from vitdeblur_jax.data.sources import INFO, FolderSource, PreparedSource, SyntheticSource
from vitdeblur_jax.distributed.processes import is_first
from vitdeblur_jax.distributed.sharding import rows_of_this_process
from vitdeblur_jax.utils.errors import UserError, one_line
from vitdeblur_jax.utils.output import tell

KINDS = ("pairs", "prepared", "synthetic")
_MOST_SIZES_READ = 1000
_DIGITS = 16


class Stage(NamedTuple):
    """A part of the training with one crop and batch size.

    Attributes:
      first_step: The first step of the stage.
      first_example: Number of examples taken before it.
      crop: Side of the crops, pixels.
      batch_size: Batch size over all devices.
    """

    first_step: int
    first_example: int
    crop: int
    batch_size: int


def stages(config: ml_collections.ConfigDict) -> list[Stage]:
    """Returns the stages given by `crop`, `batch_size` and `progressive`; at least one."""
    plan = [Stage(0, 0, config.crop, config.batch_size)]
    for first_step, crop, batch_size in config.progressive:
        taken = (first_step - plan[-1].first_step) * plan[-1].batch_size
        plan.append(Stage(first_step, plan[-1].first_example + taken, crop, batch_size))
    return plan


class TrainingData:
    """The examples of a run: training batches by step, and validation images.

    Args:
      config: The training config.
      views: Of the network.

    Attributes:
      validation: Source of the validation examples; None without validation.
      fingerprint: Identifies the training examples independent of their folder: `examples` is
        their number, `digest` a hash of their names and of the sizes of at most 1000 files.

    Raises:
      UserError: The data does not exist, no examples remain for training or validation, or a crop
        is larger than an image (of at most 1000 images whose sizes are read).
    """

    def __init__(self, config: ml_collections.ConfigDict, views: int = 1):
        if not config.data.root:
            raise UserError("--config.data.root is missing: the folder of the training data")
        self._config, self._stages = config, stages(config)
        self._training, held_out = _split(config)
        self.fingerprint = _fingerprint(self._training)
        self.validation = None
        if config.validation.every:
            self.validation = _validation_source(config, self._training, held_out)
            if config.data.kind != "synthetic":  # these are always valid, and costly
                _check_example(self.validation[0], views)
        _check_sizes(_source(config, self._training, None), max(s.crop for s in self._stages))
        _check_example(self._source(self._stages[0])[0], views)
        for stage in self._stages:
            self._dataset(stage)  # makes the remaining checks

    def batches(self, step: int, stage: Stage, sharding: jax.sharding.Sharding) -> DeviceBatches:
        """Returns the batches of a stage from a step on, sharded over the devices.

        Each process reads only the rows on its devices. Close the iterator after use.
        """
        dataset = self._dataset(stage, rows_of_this_process(sharding, stage.batch_size))
        dataset.set_state({"next_index": step - stage.first_step})
        return prefetch_to_device(dataset, sharding, leave=("radius",))

    def stage(self, step: int) -> Stage:
        """Returns the stage of a step."""
        return next(stage for stage in reversed(self._stages) if stage.first_step <= step)

    def end_of(self, stage: Stage) -> int:
        """Returns the step after the last one of a stage."""
        later = [s.first_step for s in self._stages if s.first_step > stage.first_step]
        return min([*later, self._config.num_steps])

    def names(self, step: int) -> list[str]:
        """Returns the names of the examples in the batch of a step; reads the examples again."""
        stage = self.stage(step)
        source = self._source(stage)
        indices = self._dataset(stage).batches[step - stage.first_step]["index"]
        return [f"{source[int(index)]['name']} (index {index})" for index in indices]

    def _dataset(self, stage: Stage, rows: Sequence[int] | None = None) -> TrainBatches:
        data = self._config.data
        return make_train_dataset(
            [self._source(stage)],
            seed=self._config.seed,
            batch_size=stage.batch_size,
            crop=stage.crop,
            first_example=stage.first_example,
            rows=rows,
            vertical_flip=data.vertical_flip,
            quarter_turns=data.quarter_turns,
            workers=data.workers,
        )

    def _source(self, stage: Stage) -> Source:
        return _source(self._config, self._training, stage.crop)


def _split(config) -> tuple[Any, Any]:
    """Returns the training examples and the held-out ones: pairs, files or records."""
    data = config.data
    if data.kind == "prepared":
        if data.hold_out:
            raise UserError(
                "data.hold_out is for pairs and synthetic data; a prepared data set has its own "
                "splits: set validation.split"
            )
        return PreparedSource(data.root, data.split), None
    if data.kind == "synthetic":
        images = _images(data.root)
        aside = set(_spread(images, data.hold_out))
        kept = [path for path in images if path not in aside]
        return _not_empty(kept, data), [path for path in images if path in aside]
    pairs = _pairs(data.root, data.layout, data.split)
    aside = set(_spread(sorted({pair.target for pair in pairs if pair.target}), data.hold_out))
    kept = [pair for pair in pairs if pair.target not in aside]
    return _not_empty(kept, data), [pair for pair in pairs if pair.target in aside]


def _fingerprint(examples) -> dict[str, Any]:
    try:
        if isinstance(examples, PreparedSource):
            traits = [(examples.folder / INFO).read_text(encoding="utf-8")]
        else:
            files = [item.target if isinstance(item, Pair) else item for item in examples]
            sizes = [os.path.getsize(file) for file in _spread(files, _MOST_SIZES_READ) if file]
            traits = [*(item.name for item in examples), *map(str, sizes)]
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({one_line(error)})") from error
    digest = hashlib.sha256("\n".join(traits).encode("utf-8", "surrogateescape"))
    return {"examples": len(examples), "digest": digest.hexdigest()[:_DIGITS]}


def _pairs(root, layout: str, split: str) -> list[Pair]:
    """Returns the pairs; process 0 prints the rule that pairs the files."""
    pairs = find_pairs(root, layout, split)
    if is_first() and (paired := describe(pairs)):
        tell(f"{root}, {split}: {paired}")
    return pairs


def _not_empty(kept, data):
    if not kept:
        raise UserError(
            f"{data.root}: data.hold_out is {data.hold_out}, so all sharp images are held out and "
            "none remain for training; lower it"
        )
    return kept


def _images(root) -> list[Path]:
    if not Path(root).is_dir():
        raise UserError(f"there is no folder {str(root)!r} of images")
    images = list_images(root)
    if is_first() and (line := left_out(root)):
        tell(line)
    return images


def _source(config, examples, crop: int | None) -> Source:
    data = config.data
    if data.kind == "prepared":
        return examples
    if data.kind == "pairs":
        return FolderSource(examples, data.bit_depth)
    settings = SynthesisSettings(**{k: _plain(v) for k, v in data.synthesis.items()})
    return SyntheticSource(examples, settings, config.seed, crop=crop)


def _plain(value):
    return tuple(value) if isinstance(value, (list, tuple)) else value


def _validation_source(config, training, held_out) -> Source:
    data, validation = config.data, config.validation
    if data.hold_out:
        return _source(config, held_out, crop=None)
    root = validation.root or data.root
    if data.kind == "prepared":
        if not validation.root and validation.split == data.split:
            raise UserError(
                f"validation.split is {data.split!r}, the training split; set another one, or "
                "validation.root, or set validation.every to 0"
            )
        return PreparedSource(root, validation.split)
    if data.kind == "pairs":
        examples = _pairs(root, data.layout, validation.split)
    else:
        examples = _images(root)
    if not validation.root and not set(examples).isdisjoint(training):
        raise UserError(
            "the validation data is the training data: set data.hold_out, or validation.root to "
            "another folder, or validation.every to 0"
        )
    return _source(config, examples, crop=None)


def _spread(items: Sequence, count: int) -> list:
    """Returns `count` evenly spaced items, or all items if there are fewer."""
    if not count:
        return []
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[place] for place in places]


def validation_indices(source: Source, count: int) -> list[int]:
    """Returns the indices of the examples for validation: `count`, evenly spaced; 0: all."""
    return _spread(range(len(source)), count or len(source))


def _check_example(example, views) -> None:
    found = example["blurred"].shape[-1] // 3
    if found != views:
        raise UserError(
            f"{example['name']} has {found} view{'s' * (found > 1)}, but the network takes {views}"
        )
    if "sharp" not in example:
        raise UserError(
            f"{example['name']}: has no sharp image; training and validation need pairs"
        )


def _check_sizes(source: Source, crop: int) -> None:
    if isinstance(source, PreparedSource):
        first = source[0]  # only one, because it must be decoded
        return _check_size(first["name"], first["blurred"].shape[1::-1], crop)
    for index in _spread(range(len(source)), _MOST_SIZES_READ):
        path = source.files(index)[0]
        if isinstance(source, FolderSource):
            check_sizes([source.pairs[index]])
        size = size_of(path)
        if size is not None:  # otherwise reading the image gives the reason
            _check_size(path, size, crop)


def _check_size(name, size, crop):
    if crop > min(size):
        raise UserError(
            f"crop is {crop} pixels, but {name} has {size[0]} x {size[1]}; choose a smaller crop, "
            "or remove this image"
        )
