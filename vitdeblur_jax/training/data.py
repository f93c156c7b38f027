"""The examples of a run: the batch of each step, and the validation images."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import jax
import ml_collections

from vitdeblur_jax.data.device_synthesis import (
    Recipe,
    check_memory,
    place_images,
    scene_shape,
    synthetic_device_batches,
)
from vitdeblur_jax.data.input_pipeline import Source, locate, make_train_dataset, mixed_indices
from vitdeblur_jax.data.prefetch import TrainBatches, prefetch_to_device
from vitdeblur_jax.distributed.sharding import rows_of_this_process
from vitdeblur_jax.training.data_sets import (
    DataSet,
    mixture_weights,
    synthesizes_on_device,
    training_sets,
    validation_sets,
)
from vitdeblur_jax.training.examples import (
    check_crop,
    check_example,
    fingerprint,
    identities,
    make_source,
    split_off,
    spread,
    synthesis_settings,
    validation_items,
)
from vitdeblur_jax.training.stages import Stage, stages
from vitdeblur_jax.utils.errors import UserError


class TrainingData:
    """The examples of a run: training batches by step, and validation images.

    Args:
      config: The training config.
      views: Number of views the network takes.

    Attributes:
      validation: Sources of the validation examples by the name of their data set, "" for the one
        in `data`; empty without validation.
      fingerprint: For each training set, by the path of its keys in the config, what
        `examples.fingerprint` returns.
      validation_fingerprint: The same for the validation sets.

    Raises:
      UserError: The data does not exist, no examples remain for training or validation, the bit
        depths of the training sets differ, a crop is larger than an image (of at most 1000 images
        whose sizes are read), or the images are too large for device memory.
    """

    def __init__(self, config: ml_collections.ConfigDict, views: int = 1):
        self._views = views
        self._config, self._stages = config, stages(config)
        self._sets = training_sets(config)
        split = {one.path: split_off(one) for one in self._sets}
        self._training = [split[one.path][0] for one in self._sets]
        # On the devices of a mesh; once, because all stages use them.
        self._place_images = functools.cache(functools.partial(place_images, self._training[0]))
        self.fingerprint = {path: fingerprint(items) for path, (items, _) in split.items()}
        self.validation: dict[str, Source] = {}
        self.validation_fingerprint: dict[str, dict[str, Any]] = {}
        if config.validation.every:
            self.validation = {
                one.name: self._validation_source(one, split.get(one.path))
                for one in validation_sets(config)
            }
        self._check_training()

    def batches(
        self, step: int, stage: Stage, sharding: jax.sharding.NamedSharding
    ) -> Iterator[dict[str, Any]]:
        """Returns the batches of a stage from a step on, sharded over the devices.

        Each process reads or computes only the rows on its devices. Close the iterator after use.
        """
        if synthesizes_on_device(self._config):
            return self._device_batches(step, stage, sharding)
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
        """Returns the names of the examples in the batch of a step."""
        stage = self.stage(step)
        sources, named = self._sources(stage.crop), []
        order = self._order(step, stage)
        for index in (order[row] for row in range(stage.batch_size)):
            source, place = locate(sources, index)
            prefix = self._sets[sources.index(source)].name
            named.append(f"{f'{prefix}/' if prefix else ''}{source[place]['name']} (index {index})")
        return named

    def _order(self, step: int, stage: Stage) -> grain.MapDataset[int]:
        """Returns the indices of the examples from a step of a stage on, without end."""
        lengths = list(map(len, self._training))
        order = mixed_indices(lengths, mixture_weights(self._config), self._config.seed)
        return order[stage.first_example + (step - stage.first_step) * stage.batch_size :]

    def _device_batches(self, step: int, stage: Stage, sharding) -> Iterator[dict[str, jax.Array]]:
        images, smallest = self._place_images(sharding.mesh)
        recipe = Recipe(
            synthesis_settings(self._sets[0]),
            self._config.seed,
            stage.crop,
            scene_shape(smallest, stage.crop),
            self._config.data.horizontal_flip,
            self._config.data.vertical_flip,
            self._config.data.quarter_turns,
        )
        order, size = self._order(step, stage), stage.batch_size
        return synthetic_device_batches(images, order, recipe, size, sharding, step)

    def _dataset(self, stage: Stage, rows: Sequence[int] | None = None) -> TrainBatches:
        data = self._config.data
        return make_train_dataset(
            self._sources(stage.crop),
            weights=mixture_weights(self._config),
            seed=self._config.seed,
            batch_size=stage.batch_size,
            crop=stage.crop,
            first_example=stage.first_example,
            rows=rows,
            horizontal_flip=data.horizontal_flip,
            vertical_flip=data.vertical_flip,
            quarter_turns=data.quarter_turns,
            workers=data.workers,
        )

    def _sources(self, crop: int | None) -> list[Source]:
        seed = self._config.seed
        return [
            make_source(one, items, seed, crop)
            for one, items in zip(self._sets, self._training, strict=True)
        ]

    def _validation_source(self, data_set: DataSet, split: tuple | None) -> Source:
        """Returns the source of a validation set; `split` is (training, held out)."""
        root = self._config.validation.root
        is_held_out = bool(data_set.settings.hold_out)
        held_out = (split or split_off(data_set))[1] if is_held_out else ()
        items = validation_items(data_set, held_out, root)
        trained_on = set().union(*map(identities, self._training))
        if not (root and not is_held_out) and not trained_on.isdisjoint(identities(items)):
            raise UserError(_training_data_again(data_set))
        self.validation_fingerprint[data_set.path] = fingerprint(items)
        source = make_source(data_set, items, self._config.seed, crop=None)
        if data_set.settings.kind != "synthetic":  # these are always valid, and costly
            check_example(source[0], self._views)
        return source

    def _check_training(self) -> None:
        depths = {}
        for source in self._sources(None):
            check_crop(source, max(stage.crop for stage in self._stages))
        if synthesizes_on_device(self._config):
            check_memory(self._training[0], f"{self._sets[0].path}.synthesis.device")
        for one, source in zip(self._sets, self._sources(self._stages[0].crop), strict=True):
            example = source[0]
            check_example(example, self._views)
            depths[one.path] = 8 * example["blurred"].itemsize
        if len(set(depths.values())) > 1:
            listed = ", ".join(f"{path} {bits}" for path, bits in depths.items())
            raise UserError(
                f"the sets of data.mixture have several bit depths ({listed}); set bit_depth to 8"
            )
        for stage in self._stages:
            self._dataset(stage)  # makes the remaining checks


def _training_data_again(data_set: DataSet) -> str:
    path = data_set.path
    other = f"{path}.root or {path}.validation_split" if data_set.name else "validation.root"
    return (
        f"{path}: the validation data is the training data: set {path}.hold_out, or {other} to "
        "other data, or validation.every to 0"
    )


def validation_indices(source: Source, count: int) -> list[int]:
    """Returns the indices of the examples for validation: `count`, evenly spaced; 0: all."""
    return spread(range(len(source)), count or len(source))
