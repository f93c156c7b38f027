"""Shared by the tests of `vitdeblur restore`: an image, and helpers that read the output."""

from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

STRIDE = 30
PHOTO = skimage.data.astronaut()[100:145, 200:250]


def pixels(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def names(folder: str | Path = ".") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def refused(result: tuple[int, str]) -> str:
    """Returns the single error line of a failed command."""
    status, said = result
    assert status == 2
    assert said.count("\n") == 1
    assert said.startswith("error: ")
    return said
