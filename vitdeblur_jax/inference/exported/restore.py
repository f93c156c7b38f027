"""Restores images with the exported model in this package; needs JAX and NumPy, no more.

With the folder that holds this one on Python's path, and NAME for the name of this one:

    import NAME

    restore = NAME.load()
    sharp = restore(image)  # height x width x 3, RGB; uint8, uint16 or floats in [0, 1]

`metadata.json` says what the model is.
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

from .pixels import as_dtype, image_fault
from .tiles import tile_rows
from .windows import window_rows

_HERE = Path(__file__).parent


def _provide_flatbuffers() -> None:
    """Imports the package with which JAX reads functions, from here if it is not installed."""
    if importlib.util.find_spec("flatbuffers") is None:
        place = str(_HERE / "third_party")
        sys.path.append(place)
        importlib.import_module("flatbuffers")
        sys.path.remove(place)


def load(folder: str | Path = _HERE) -> Callable[..., np.ndarray]:
    """Returns the function that restores an image, with its variables on JAX's first device.

    It takes the image, `(height, width, 3 * views)`, and `batch_size`, how many windows or tiles
    are computed at once: by default 1 on a CPU and 8 elsewhere. A model that was exported for one
    batch size takes no other. It returns `(height, width, 3)` of the image's dtype: integers
    rounded, floats not clipped. It raises `ValueError` if the image's shape, dtype or values
    are wrong, or the network's output is not finite.
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
        settings = {"batch_size": batch_size} | ({"stride": tiling.stride} if in_windows else {})
        rows = (window_rows if in_windows else tile_rows)(tiling, image, *functions, **settings)
        restored = np.concatenate(list(rows))
        if not np.isfinite(restored).all():
            raise ValueError("the network's output is not finite")
        return as_dtype(restored, image.dtype)

    return restore
