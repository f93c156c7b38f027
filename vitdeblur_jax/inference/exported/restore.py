"""Restores images with the exported model in this package; needs only JAX and NumPy.

NAME is the name of this folder; its parent folder must be on Python's path:

    import NAME

    restore = NAME.load()
    sharp = restore(image)  # height x width x 3, RGB; uint8, uint16 or floats in [0, 1]

`metadata.json` describes the model.
"""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
from jax import export

from .pixels import image_fault
from .strips import Output
from .tiles import count_tiles, tile_rows
from .windows import window_rows

_HERE = Path(__file__).parent


def _provide_flatbuffers() -> None:
    """Imports flatbuffers, which `jax.export` needs, from this folder if it is not installed."""
    if importlib.util.find_spec("flatbuffers") is None:
        place = str(_HERE / "third_party")
        sys.path.append(place)
        importlib.import_module("flatbuffers")
        sys.path.remove(place)


def load(folder: str | Path = _HERE) -> Callable[..., np.ndarray]:
    """Loads the model onto JAX's first device.

    Args:
      folder: The folder of the exported model.

    Returns:
      A function of an image `(height, width, 3 * views)`, a NumPy or JAX array, and a `batch_size`,
      the number of windows or tiles per batch (default: 1 on a CPU, 8 on other devices; fixed if
      the model was exported for one batch size). It returns a NumPy array `(height, width, 3)` in
      the image's dtype; integers are rounded, floats are not clipped. It raises `ValueError` if the
      image is invalid or the network's output is not finite.
    """
    _provide_flatbuffers()
    folder = Path(folder)
    metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    tiling = SimpleNamespace(**metadata["tiling"])
    with np.load(folder / "variables.npz") as file:
        variables = jax.device_put(dict(file), jax.devices()[0])

    def exported(name):
        serialized = (folder / f"{name}.exported").read_bytes()
        compiled = jax.jit(export.deserialize(bytearray(serialized)).call)
        return lambda *arguments: compiled(variables, *arguments)

    in_windows = hasattr(tiling, "stride")
    names = ("window_features", "head_tile") if in_windows else ("restored_tiles",)
    functions = [exported(name) for name in names]
    usual = metadata["batch_size"] or (1 if jax.default_backend() == "cpu" else 8)

    def restore(image: np.ndarray, batch_size: int = usual) -> np.ndarray:
        fault = image_fault(metadata["views"], image)
        if fault is not None:
            raise ValueError(fault)
        image = np.asarray(image)  # a JAX array, too
        if not (in_windows or metadata["batch_size"]):
            batch_size = min(batch_size, count_tiles(tiling, *image.shape[:2]))
        settings = {"batch_size": batch_size, "output": Output(image.dtype)}
        settings |= {"stride": tiling.stride} if in_windows else {}
        rows = (window_rows if in_windows else tile_rows)(tiling, image, *functions, **settings)
        return np.concatenate(list(rows)).astype(image.dtype, copy=False)

    return restore
