"""The base class of all builders. A builder has a source of examples for each split."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from vitdeblur_jax.data.layouts import ALL, find_pairs
from vitdeblur_jax.data.recognition import recognize
from vitdeblur_jax.data.records.patches import PATCH, patch_corners, sharpest
from vitdeblur_jax.data.sources import (
    Example,
    FolderSource,
    SyntheticSource,
    with_name_in_bytes,
)
from vitdeblur_jax.utils.errors import UserError

ONLY_SPLIT = {"pairs": "train"}  # of layouts without splits; all others have only "test"
_LAYOUTS_WITH_SPLITS = ("dpdd", "dpdd_dual_pixel", "lfdof")
_UNKNOWN_LICENCE = "The homepage states no licence for the images; ask the authors."


@dataclass(eq=False)
class DefocusConfig(tfds.core.BuilderConfig):
    """A config of a data set.

    Attributes:
        layout: One of `layouts.LAYOUTS`.
        bit_depth: 8 or 16.
        train_patches: The examples of the train split: "" for whole images, "all" for all patches
            (`patches.patch_corners`), "sharpest" for the sharpest ones (`patches.sharpest`). Other
            splits contain whole images.
    """

    layout: str = ""
    bit_depth: int = 8
    train_patches: str = ""

    @property
    def views(self) -> int:
        """The number of blurred views."""
        return 2 if self.layout.endswith("dual_pixel") else 1


class DefocusBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes the examples of `sources` as records.

    Arrays are stored without PNG compression. A 1680 x 1120 image then loads about three times as
    fast and takes two to four times the space.

    Attributes:
        ABOUT: Arguments for `tfds.core.DatasetInfo`: description, homepage, citation, license.
        HAS_SHARP: Whether examples have a `sharp` image.
    """

    VERSION = tfds.core.Version("1.0.0")
    ABOUT: ClassVar[dict[str, str]] = {}
    HAS_SHARP = True

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(self.features()),
            disable_shuffling=True,  # the input pipeline shuffles; a fixed order is reproducible
            **{"license": _UNKNOWN_LICENCE} | self.ABOUT,
        )

    def features(self) -> dict[str, tfds.features.FeatureConnector]:
        """Returns the features of an example."""
        dtype = np.uint8 if self.builder_config.bit_depth == 8 else np.uint16
        blurred = array_feature((None, None, 3 * self.builder_config.views), dtype)
        sharp = {"sharp": array_feature((None, None, 3), dtype)} if self.HAS_SHARP else {}
        return {"name": tfds.features.Text(), "blurred": blurred, **sharp}

    def sources(self, root: Path) -> dict[str, FolderSource | SyntheticSource]:
        """Returns the examples of each split as whole images, in the order of their records.

        Raises:
            UserError: The data set is missing or incomplete. The message says what is missing, what
                the folder contains and where to download the data set.
        """
        layout = self.builder_config.layout
        try:
            return {
                name: FolderSource(find_pairs(root, layout, name), self.builder_config.bit_depth)
                for name in _splits(root, layout)
            }
        except UserError as error:
            raise UserError(f"{error}. {self.instructions()}") from error

    def examples(self, split: str, source, index: int) -> list[Example]:
        """Returns the examples made from one image: the whole image, or its patches.

        Raises:
            UserError: The image cannot be read or is too small for a patch.
        """
        example = source[index]
        kind = self.builder_config.train_patches if split == "train" else ""
        if not kind:
            return [example]
        try:
            corners = patch_corners(*example["blurred"].shape[:2])
        except UserError as error:
            raise UserError(f"{source.files(index)[0]}: {error}") from error
        corners = sharpest(example["sharp"], corners) if kind == "sharpest" else corners
        return [_patch(example, corner) for corner in corners]

    @classmethod
    def instructions(cls) -> str:
        """Returns one line that says where to download the data and how to arrange it."""
        return " ".join(cls.MANUAL_DOWNLOAD_INSTRUCTIONS.split())

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        try:
            root = Path(dl_manager.manual_dir)
        except AssertionError as error:  # the folder is missing or empty
            raise UserError(" ".join(str(error).split())) from error
        sources = self.sources(root)
        return {split: self._generate_examples(split, sources[split]) for split in sources}

    def _generate_examples(self, split: str, source) -> Iterator[tuple[int, dict[str, Any]]]:
        key = 0
        for index in range(len(source)):
            for example in self.examples(split, source, index):
                yield key, with_name_in_bytes(example)
                key += 1


def array_feature(shape: tuple[int | None, ...], dtype: type) -> tfds.features.Tensor:
    """Returns the feature of an array stored as raw bytes."""
    return tfds.features.Tensor(shape=shape, dtype=dtype, encoding=tfds.features.Encoding.BYTES)


def _splits(root: Path, layout: str) -> list[str]:
    if layout not in _LAYOUTS_WITH_SPLITS:
        return [ONLY_SPLIT.get(layout, "test")]
    found = []
    with contextlib.suppress(UserError):  # `find_pairs` reports the error
        found = [part.split for part in recognize(root).parts if layout in part.layouts]
    return ["train" if split == ALL else split for split in found] or ["train"]


def _patch(example: Example, corner: tuple[int, int]) -> Example:
    top, left = corner
    arrays = {
        key: value[top : top + PATCH, left : left + PATCH]
        for key, value in example.items()
        if key != "name"
    }
    return {"name": f"{example['name']}_{top}_{left}", **arrays}
