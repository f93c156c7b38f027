"""The indoor and outdoor subsets of DPDD, if the files with their labels exist."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vitdeblur_jax.data.pairs import Pair
from vitdeblur_jax.utils.errors import UserError, one_line

_SUBSETS = ("indoor", "outdoor")


def find_subsets(pairs: Sequence[Pair], layout: str, split: str) -> dict[str, list[str]]:
    """Returns the names of the pairs in each subset that has a file of labels.

    Only DPDD's test split has labels. A file of labels is `indoor_labels.npy` or
    `outdoor_labels.npy`, beside the folder of the blurred images (as in Restormer's copy of the
    data) or one folder above. It holds the numbers of the pairs, in order, from 1.

    Raises:
      UserError: A file cannot be read or has other contents.
    """
    if not layout.startswith("dpdd") or split != "test":
        return {}
    folder = pairs[0].source[0].parent.parent
    paths = {
        subset: path
        for subset in _SUBSETS
        for place in (folder.parent, folder)
        if (path := place / f"{subset}_labels.npy").is_file()
    }
    return {
        subset: [pairs[i - 1].name for i in _read_labels(path, len(pairs))]
        for subset, path in paths.items()
    }


def _read_labels(path: Path, count: int) -> list[int]:
    try:
        labels = np.load(path, allow_pickle=False).ravel().tolist()
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)}); repair or remove") from error
    if any(label not in range(1, count + 1) for label in labels):
        raise UserError(f"{path}: its labels are not all whole numbers from 1 to {count}")
    return sorted({int(label) for label in labels})  # some tools save them as floats
