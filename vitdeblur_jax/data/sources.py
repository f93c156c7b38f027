"""Examples by index: from the files of a data set, from records, or synthesized.

An example is a dict: `name`; `blurred`, H x W x 3 (6 for the left and the right view of dual
pixels); `sharp`, H x W x 3, unless there is none; both uint8 or both uint16; and, if synthetic,
`radius`, H x W float32, the signed defocus radius in pixels. Sources can be pickled and
read by several threads.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitdeblur_jax.data.defocus.settings import SynthesisSettings
from vitdeblur_jax.data.defocus.synthesis import synthesize
from vitdeblur_jax.data.defocus.synthesis_files import generator_for
from vitdeblur_jax.data.image_io import Samples, as_8_bits, read_rgb
from vitdeblur_jax.data.layouts import contents
from vitdeblur_jax.data.pairs import Pair, read_pair
from vitdeblur_jax.utils.errors import UserError, one_line
from vitdeblur_jax.utils.json_files import read_json
from vitdeblur_jax.utils.natural_order import some

Example = dict[str, Any]

INFO = "dataset_info.json"  # of TensorFlow Datasets
_SCENE = 480  # pixels; an image of this size has a few depths


class FolderSource:
    """The pairs of a data set, read from its own files.

    Args:
        pairs: As `layouts.find_pairs` gives them.
        bit_depth: 8, which takes the upper 8 bits of a 16-bit file; or 16, which all files must
            have.

    Raises:
        UserError: The bit depth is neither 8 nor 16. While reading: as `pairs.read_pair`, or a file
            has 8 bits where the bit depth is 16.
    """

    def __init__(self, pairs: Sequence[Pair], bit_depth: int = 8):
        if bit_depth not in (8, 16):
            raise UserError(f"the bit depth is {bit_depth}; it is 8 or 16")
        self.pairs, self.bit_depth = list(pairs), bit_depth

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Example:
        pair = self.pairs[index]
        blurred, sharp = read_pair(pair)
        example = {"name": pair.name, "blurred": self._at_depth(blurred, pair.source[0])}
        if sharp is not None:
            example["sharp"] = self._at_depth(sharp, pair.target)
        return example

    def files(self, index: int) -> tuple[Path, ...]:
        """Returns the files of an example."""
        pair = self.pairs[index]
        return pair.source if pair.target is None else (*pair.source, pair.target)

    def _at_depth(self, pixels: Samples, path: Path) -> Samples:
        if self.bit_depth == 8:
            return as_8_bits(pixels)
        if pixels.dtype != np.uint16:
            raise UserError(f"{path} has 8 bits a channel where 16 are wanted; ask for 8")
        return pixels


class SyntheticSource:
    """Sharp images with synthetic defocus.

    `source[index]` depends on the seed, the image and its name alone, and is what
    `synthesis_files.synthesize_folder` writes, unless there is a crop. `sample` draws another one.

    Args:
        images: Files of the sharp images; the upper 8 bits of 16-bit files are used.
        settings: Distribution of scenes and lenses.
        seed: Seed, 0 or more.
        crop: Side of a random square crop, pixels; None: the whole image. The scene is drawn for
            about 480 pixels around the crop, and only the crop is blurred. This is like a crop of a
            whole image, for less work.

    Raises:
        UserError: While reading: an image cannot be read, or is smaller than the crop.
    """

    def __init__(
        self,
        images: Sequence[Path],
        settings: SynthesisSettings,
        seed: int,
        *,
        crop: int | None = None,
    ):
        self.images, self.settings, self.seed = list(images), settings, seed
        self.crop = crop

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        return self.sample(index, generator_for(self.images[index].stem, self.seed))

    def sample(self, index: int, rng: np.random.Generator) -> Example:
        """Returns an example whose crop, scene, lens and noise are drawn from a generator."""
        path = self.images[index]
        sharp = as_8_bits(read_rgb(path))
        if self.crop is None:
            return {"name": path.stem, **synthesize(sharp, self.settings, rng)}
        return {"name": path.stem, **self._synthesize_crop(sharp, path, rng)}

    def files(self, index: int) -> tuple[Path, ...]:
        """Returns the file of an example."""
        return (self.images[index],)

    def _synthesize_crop(
        self, sharp: NDArray[np.uint8], path: Path, rng: np.random.Generator
    ) -> Example:
        height, width, _ = sharp.shape
        if not 0 < self.crop <= min(height, width):
            raise UserError(f"{path}: no crop of {self.crop} in {width} x {height} pixels")
        scene, wanted = [], []
        for side in (height, width):
            start = int(rng.integers(side - self.crop + 1))
            length = scene_length(side, self.crop)
            first = int(np.clip(start - (length - self.crop) // 2, 0, side - length))
            scene.append(slice(first, first + length))
            wanted.append(slice(start - first, start - first + self.crop))
        example = synthesize(sharp[tuple(scene)], self.settings, rng, wanted=tuple(wanted))
        return {key: value.copy() for key, value in example.items()}


def scene_length(side: int, crop: int) -> int:
    """Returns the length of the part of an image's side in which the scene of a crop is drawn."""
    return min(side, max(_SCENE, 2 * crop))


def with_name_in_bytes(example: Example) -> Example:
    """Returns an example with its name as bytes, for records: file names need not be UTF-8."""
    return {**example, "name": os.fsencode(example["name"])}


class PreparedSource:
    """A split of a data set written by `records.preparation.prepare` or by a builder.

    Args:
        folder: The folder that `prepare` returns, with `dataset_info.json`; or a folder above it,
            such as the `out` of `prepare`, if it holds only one data set.
        split: "train", "val" or "test".

    Raises:
        UserError: TensorFlow Datasets is not installed, or the folder holds no complete data set or
            lacks the split. While reading: a file is damaged.
    """

    def __init__(self, folder: str | os.PathLike[str], split: str):
        self.folder, self.split = _prepared_folder(Path(folder)), split
        read_json(self.folder / INFO)  # tells of a damaged file; TFDS raises errors of protobuf
        tensorflow_datasets = _tensorflow_datasets()
        try:
            builder = tensorflow_datasets.builder_from_directory(self.folder)
            splits = list(builder.info.splits)
            if split in splits:
                self._examples = builder.as_data_source(split)
        except (NotImplementedError, OSError, RuntimeError, ValueError) as error:
            raise UserError(f"{folder}: cannot be read ({one_line(error)})") from error
        if split not in splits:
            raise UserError(f"no split {split!r} in {folder}; there are {', '.join(splits)}")

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        index = range(len(self))[index]
        try:
            example = dict(self._examples[index])
        except (OSError, RuntimeError, ValueError) as error:
            message = f"{self.folder}: example {index} of {self.split} cannot be read"
            raise UserError(f"{message} ({one_line(error)})") from error
        return {**example, "name": os.fsdecode(example["name"])}

    def __reduce__(self):
        return type(self), (self.folder, self.split)  # without the open files


def _prepared_folder(root: Path) -> Path:
    """Finds the one data set `NAME/CONFIG/VERSION` in the root, which may be part of that path."""
    for depth in range(4):
        found = sorted(path.parent for path in root.glob("*/" * depth + INFO))
        found = [path for path in found if path.suffix != ".unfinished"]
        if len(found) > 1:
            names = some(str(path.relative_to(root)) for path in found)
            raise UserError(f"{root} holds several prepared data sets; name one of {names}")
        if found:
            return found[0]
    held = contents(root) if root.is_dir() else "nothing, for it is no folder"
    raise UserError(
        f"no prepared data set in {root}: it holds {held}, but no {INFO}; "
        "`vitdeblur data prepare` makes one, or resumes if it was interrupted"
    )


def _tensorflow_datasets():
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise UserError(
            "prepared data needs TensorFlow Datasets: pip install 'vitdeblur_jax[train]'"
        ) from error
    return tensorflow_datasets
