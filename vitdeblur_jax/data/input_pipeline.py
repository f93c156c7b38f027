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
    """Examples by index, each read when asked for; see `sources`."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Example: ...


@runtime_checkable
class RandomSource(Source, Protocol):
    """Examples that are drawn anew each time, such as those of `sources.SyntheticSource`."""

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
    vertical_flip: bool = False,
    quarter_turns: bool = False,
    workers: int = 0,
) -> TrainBatches:
    """Returns the endless, checkpointable iterator over training batches, or some rows of each.

    Each source has its own epochs: in each it is shuffled anew and every example comes once. A
    batch may hold the end of one epoch and the beginning of the next. Several sources are
    interleaved in a fixed pattern, in which any stretch has their shares.

    Args:
      sources: the examples; pickled once a worker. Those of several sources have pixels of one
        dtype and the same number of views.
      weights: the share of each source in the examples, up to a common factor, rounded to a
        hundredth of the smallest; None: equal shares.
      seed: 0 or more; decides on order and augmentation.
      batch_size: of the whole batch.
      crop: side of the crops, pixels.
      first_example: where in the endless sequence of examples the first batch begins, so that one
        dataset can continue where another, of another batch size or crop, ended.
      rows: which rows of each batch to read, of several processes each its own; None: all.
      vertical_flip: see `random_crop_and_flips`.
      quarter_turns: see `random_crop_and_flips`.
      workers: processes that read and augment; with 0, threads of this process do, which is enough
        where decoding is most of the work, for decoders don't hold Python's lock.

    Returns:
      An iterator over dicts of stacked arrays: `blurred` (B x crop x crop x 3 or 6) and `sharp`
      (B x crop x crop x 3), uint8 or uint16 as the source has them, to be converted by `unit_range`
      on the device; of a single source that has it, `radius` (B x crop x crop, float32); and
      `index` (B, int32), the indices of the examples in the sources put one after the other.

    Raises:
      UserError: no source or an empty one, more than 2^31 - 1 examples, weights that are not above
        0 or not one for each source, a negative seed, an empty batch. Later, from reading: a crop
        that is larger than an image, whatever the source raises, or a worker that died, as they do
        if a script is not guarded by `if __name__ == "__main__":`.
    """
    _check(sources, weights, seed, batch_size)
    rows = list(range(batch_size) if rows is None else rows)
    flips = {"vertical_flip": vertical_flip, "quarter_turns": quarter_turns}
    examples = _mixed_indices([len(source) for source in sources], weights, seed)
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
    """Returns endless training batches of crops of sharp images, put out of focus.

    Args:
      images: their files.
      seed: 0 or more; decides on everything that is drawn.
      batch_size: 1 or more.
      crop: side of the crops, pixels.
      settings: how scenes and lenses are drawn; by default as `SynthesisSettings` has it.

    Returns:
      An iterator over dicts: `blurred` (B x crop x crop x 3, or 6 where `settings.dual_pixel`) and
      `sharp` (B x crop x crop x 3), uint8; `radius` (B x crop x crop, float32), the defocus radius
      in pixels, below 0 in front of the plane of focus; and `index` (B, int32), which image each
      crop is of. Each epoch takes every image once, with another crop and another blur.

    Raises:
      UserError: no images, a negative seed, an empty batch. Later, from reading: a crop below
        1 or larger than an image, a file that cannot be read.
    """
    source = SyntheticSource(images, settings or SynthesisSettings(), seed, crop=crop)
    return make_train_dataset([source], seed=seed, batch_size=batch_size, crop=crop)


def _mixed_indices(
    lengths: Sequence[int], weights: Sequence[float | int] | None, seed: int
) -> grain.MapDataset[int]:
    """Returns endless indices into the sources put one after the other, mixed by weight."""
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
