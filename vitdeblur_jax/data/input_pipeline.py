"""Batches for training, with Grain: which example comes at which step.

The batch of a step is a pure function of the settings and the step. Grain derives every draw from
the seed and the example's place in the endless sequence of examples: the order of each epoch, and
the crop, flips and synthetic defocus of each example. So a run resumes at any step without
replaying the others, and neither workers nor threads, which only read ahead, change the result.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import grain
import numpy as np

from vitdeblur_jax.data.defocus.settings import SynthesisSettings
from vitdeblur_jax.data.prefetch import TrainBatches
from vitdeblur_jax.data.sources import SyntheticSource
from vitdeblur_jax.data.transforms import Example, random_crop_and_flips
from vitdeblur_jax.utils.errors import UserError

_MOST_EXAMPLES = 2**31 - 1  # an index is an int32, on devices too
_ENDLESS = 2**40  # batches; Grain counts in 64 bits


@runtime_checkable
class Source(Protocol):
    """Examples by index, read on access; see `sources`."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Example: ...


@runtime_checkable
class RandomSource(Source, Protocol):
    """Examples drawn at random on each access, such as those of `sources.SyntheticSource`."""

    def sample(self, index: int, rng: np.random.Generator) -> Example: ...


def make_train_dataset(
    sources: Sequence[Source],
    *,
    weights: Sequence[float | int] | None = None,
    seed: int,
    batch_size: int,
    crop: int,
    first_example: int = 0,
    rows: Sequence[int] | None = None,
    horizontal_flip: bool = True,
    vertical_flip: bool = False,
    quarter_turns: bool = False,
    workers: int = 0,
) -> TrainBatches:
    """Returns an endless, checkpointable iterator over training batches, or some of their rows.

    Each source has its own epochs: it is shuffled again in each, and every example comes once. A
    batch may hold the end of one epoch and the start of the next. Several sources are interleaved
    in a fixed pattern, so that any range of examples has their shares.

    Args:
      sources: The sources of examples. All must have the same dtype and number of views. Each
        worker gets a pickled copy.
      weights: Relative share of each source, rounded to a hundredth of the smallest one; None:
        equal shares.
      seed: Seed of order and augmentation, 0 or more.
      batch_size: Size of the whole batch, over all processes.
      crop: Side of the crops, pixels.
      first_example: Place of the first example in the endless sequence of examples. A dataset
        with another batch size or crop can continue where this one ended.
      rows: The rows of each batch that this process reads; None: all.
      horizontal_flip: See `random_crop_and_flips`.
      vertical_flip: See `random_crop_and_flips`.
      quarter_turns: See `random_crop_and_flips`.
      workers: Number of processes that read and augment. With 0, threads of this process do. They
        suffice if most of the work is decoding, because decoders release Python's lock.

    Returns:
      An iterator over dicts of stacked arrays: `blurred` (B x crop x crop x 3 or 6) and `sharp`
      (B x crop x crop x 3), uint8 or uint16 as the source has them, to be converted by `unit_range`
      on the device; of a single source that has it, `radius` (B x crop x crop, float32); and
      `index` (B, int32), the indices of the examples in the sources put one after the other.

    Raises:
      UserError: There is no source, or an empty one, or more than 2^31 - 1 examples; the weights
        are not one per source, each above 0; the seed is negative; the batch is empty. While
        reading: a crop is larger than an image; the source raises; a worker died, for example
        because a script lacks `if __name__ == "__main__":`.
    """
    _check(sources, weights, seed, batch_size)
    rows = list(range(batch_size) if rows is None else rows)
    flips = {
        "horizontal_flip": horizontal_flip,
        "vertical_flip": vertical_flip,
        "quarter_turns": quarter_turns,
    }
    examples = mixed_indices([len(source) for source in sources], weights, seed)
    examples = examples.random_map(partial(_augmented_example, list(sources), crop, flips))
    # Grain's own slices take every n-th batch of a process, but not some rows of each batch.
    batches = (
        grain.MapDataset.range(_ENDLESS * len(rows))
        .map(partial(_example_of_row, examples[first_example:], batch_size, rows))
        .batch(len(rows), drop_remainder=True)
    )
    return TrainBatches(batches, workers)


def synthetic_batches(
    images: Sequence[Path],
    *,
    seed: int,
    batch_size: int,
    crop: int,
    settings: SynthesisSettings | None = None,
) -> TrainBatches:
    """Returns endless training batches: crops of sharp images with synthetic defocus.

    Args:
      images: Files of the sharp images.
      seed: Seed of all random draws, 0 or more.
      batch_size: Batch size, 1 or more.
      crop: Side of the crops, pixels.
      settings: Distribution of scenes and lenses; default: `SynthesisSettings()`.

    Returns:
      An iterator over dicts: `blurred` (B x crop x crop x 3, or 6 where `settings.dual_pixel`) and
      `sharp` (B x crop x crop x 3), uint8; `radius` (B x crop x crop, float32), the defocus radius
      in pixels, below 0 in front of the plane of focus; and `index` (B, int32), which image each
      crop is of. Each epoch takes every image once, with another crop and another blur.

    Raises:
      UserError: There are no images, the seed is negative or the batch is empty. While reading: the
        crop is below 1 or larger than an image, or a file cannot be read.
    """
    source = SyntheticSource(images, settings or SynthesisSettings(), seed, crop=crop)
    return make_train_dataset([source], seed=seed, batch_size=batch_size, crop=crop)


def mixed_indices(
    lengths: Sequence[int], weights: Sequence[float | int] | None, seed: int
) -> grain.MapDataset[int]:
    """Returns endless indices into sources of these lengths, put one after the other, mixed.

    This is the order in which `make_train_dataset` takes the examples.
    """
    seeds = np.random.SeedSequence(seed).generate_state(len(lengths))
    ends = np.cumsum(lengths)
    shuffled = [
        grain.MapDataset.range(int(end - length), int(end)).seed(int(own_seed)).shuffle().repeat()
        for length, end, own_seed in zip(lengths, ends, seeds, strict=True)
    ]
    return grain.MapDataset.mix(shuffled, weights)


def _augmented_example(
    sources: Sequence[Source],
    crop: int,
    flips: dict[str, bool],
    index: int,
    rng: np.random.Generator,
) -> Example:
    source, place = locate(sources, index)
    is_drawn = isinstance(source, RandomSource)
    example = source.sample(place, rng) if is_drawn else source[place]
    if "sharp" not in example:
        raise UserError(f"{example['name']}: it has no sharp image to learn from")
    example = random_crop_and_flips(example, rng, crop, **flips)
    keys = ("blurred", "sharp", "radius") if len(sources) == 1 else ("blurred", "sharp")
    return {key: example[key] for key in keys if key in example} | {"index": np.int32(index)}


def locate(sources: Sequence[Source], index: int) -> tuple[Source, int]:
    """Returns the source of an index into sources put one after the other, and the index in it."""
    for source in sources:
        if index < len(source):
            return source, index
        index -= len(source)
    raise IndexError(index)


def _example_of_row(examples, batch_size: int, rows: list[int], number: int) -> Example:
    step, place = divmod(number, len(rows))
    return examples[step * batch_size + rows[place]]


def _check(sources, weights, seed, batch_size):
    if not sources or not all(map(len, sources)):
        raise UserError("there is nothing to train on: a source holds no example")
    if weights is not None and (len(weights) != len(sources) or not min(weights) > 0):
        raise UserError(f"the weights are {weights}; each source needs one above 0")
    total = sum(map(len, sources))
    if total > _MOST_EXAMPLES:
        raise UserError(f"there are {total} examples, more than the {_MOST_EXAMPLES} supported")
    if seed < 0:
        raise UserError(f"the seed is {seed}; it must be 0 or more")
    if batch_size < 1:
        raise UserError(f"the batch size is {batch_size}; it must be 1 or more")
