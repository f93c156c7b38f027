"""Exports models as StableHLO, which runs with JAX and NumPy and without this package.

An exported model is a folder that is also a Python package:

| file | contents |
|---|---|
| NAME.exported | functions serialized by `jax.export`: window_features and head_tile for a \
network that works in windows, restored_tiles for any other |
| variables.npz | the variables, float32, which are arguments of the functions |
| metadata.json | config, tiling, digest of the variables, platforms, conventions, licence |
| __init__.py, pixels.py, strips.py, windows.py, tiles.py | the loader; it restores images |
| third_party/flatbuffers | a dependency of `jax.export`, used if it is not installed |
| LICENSE | the licence of the code |

The variables are not constants of the functions: two functions share them, the compiler would
process half a gigabyte of constants for the published model, and a file of arrays can be inspected.
"""

import functools
import json
import keyword
import os
import shutil
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import flatbuffers
import flax.linen as nn
import jax.export
import numpy as np
from flax import traverse_util

from vitdeblur_jax.checkpoints.addresses import is_address
from vitdeblur_jax.checkpoints.load_save import load_pretrained
from vitdeblur_jax.checkpoints.pretrained import Pretrained, digest, saved_config
from vitdeblur_jax.inference import pixels, strips, tiles, windows
from vitdeblur_jax.inference.chosen_tiling import tell_of_tiling
from vitdeblur_jax.inference.restoration import head_tile, restored_tiles, window_features
from vitdeblur_jax.models.network import tiling_of, views_of
from vitdeblur_jax.models.tilings import Windows
from vitdeblur_jax.utils.buckets import check_on_disk
from vitdeblur_jax.utils.errors import UserError, known, one_line
from vitdeblur_jax.utils.files import check_absent, folder_when_whole

PLATFORMS = ("cpu", "cuda", "tpu")
_NAMES_IN_USE = ("flatbuffers", "jax", "jaxlib", "ml_dtypes", "numpy", "opt_einsum", "scipy")
_BESIDE = Path(__file__).parent / "exported"
_CONVENTIONS = {
    "image": "height x width x (3 * views), channels last, RGB; two views: left, then right",
    "values": "float32 in [0, 1]; uint8 and uint16 span [0, 1]",
    "output": "float32, not clipped",
}
_LICENCE = (
    "the code: Apache-2.0, see LICENSE; the variables: the licence of the checkpoint they came from"
)


def export(
    source: str | Path | Pretrained,
    destination: str | Path,
    platforms: Iterable[str] = PLATFORMS,
    batch_size: int | None = None,
    network: nn.Module | None = None,
) -> None:
    """Writes an exported model.

    Args:
      source: A checkpoint, as `load_pretrained` takes it, or a loaded one.
      destination: The folder to create. Its name must be a valid name of a Python package.
      platforms: The target platforms; a subset of `PLATFORMS`.
      batch_size: Fixes the number of windows or tiles per batch; None allows any number.
      network: The network of the checkpoint, as `load_pretrained` takes it.

    Raises:
      UserError: The checkpoint cannot be loaded, an argument is invalid, or `destination` exists or
        cannot be written.
    """
    platforms = tuple(dict.fromkeys(map(_platform, platforms)))
    check_on_disk(destination, "exported models")
    _check_package_name(Path(os.path.abspath(destination)).name)
    if batch_size is not None and batch_size < 1:
        raise UserError(f"the batch size is {batch_size}; it must be 1 or more")
    check_absent(Path(destination))
    pretrained = source if isinstance(source, Pretrained) else load_pretrained(source, network)
    tell_of_tiling(pretrained.model, None)
    with folder_when_whole(destination) as folder:
        for name, function in exported_functions(pretrained, platforms, batch_size).items():
            (folder / f"{name}.exported").write_bytes(function.serialize())
        np.savez(folder / "variables.npz", **_flat(pretrained.variables))
        metadata = _metadata(pretrained, platforms, batch_size)
        (folder / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")
        shutil.copy(_BESIDE / "restore.py", folder / "__init__.py")
        for file in (
            _BESIDE / "LICENSE",
            *(module.__file__ for module in (pixels, strips, tiles, windows)),
        ):
            shutil.copy(file, folder)
        reader, unwanted = folder / "third_party/flatbuffers", shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(flatbuffers.__file__).parent, reader, ignore=unwanted)


def _platform(name: str) -> str:
    if name == "gpu":
        raise UserError("the platform 'gpu' is called 'cuda'")
    return known("platform", name, PLATFORMS)


def _check_package_name(name: str) -> None:
    if not name.isidentifier() or keyword.iskeyword(name):
        raise UserError(
            f"{name!r} is not a valid name of a Python package, which an exported model is; use "
            "letters, digits and _, such as my_model"
        )
    if name in sys.stdlib_module_names or name in _NAMES_IN_USE:
        raise UserError(f"the name {name!r} would hide another Python package; choose another name")


def exported_functions(
    pretrained: Pretrained, platforms: tuple[str, ...], batch_size: int | None
) -> dict[str, jax.export.Exported]:
    """Exports the functions of a network; they take flat variables and arrays.

    Args:
      pretrained: The network; only the shapes of its variables are used.
      platforms: The platforms to lower for.
      batch_size: Number of windows or tiles per batch; None for any number.

    Returns:
      The exported functions by name.

    Raises:
      UserError: The network cannot be traced for images of symbolic size.
    """
    network, tiling = pretrained.model, tiling_of(pretrained.model)
    variables = {name: _shaped(leaf.shape) for name, leaf in _flat(pretrained.variables).items()}

    def exported(function, *arguments):
        def of_flat(variables, *arguments):
            return function(network, traverse_util.unflatten_dict(variables, "/"), *arguments)

        return jax.export.export(jax.jit(of_flat), platforms=platforms)(variables, *arguments)

    channels = 3 * views_of(network)
    if isinstance(tiling, Windows):
        square = (tiling.size, tiling.size, channels)
        (batch,) = (batch_size,) if batch_size else jax.export.symbolic_shape("batch")
        windows = _shaped((batch, *square))
        features = jax.eval_shape(
            functools.partial(window_features, network), pretrained.variables, _shaped((1, *square))
        )
        indices = _shaped((tiling.map_side,), np.int32)
        return {
            "window_features": exported(window_features, windows),
            "head_tile": exported(
                head_tile, _shaped(square), _shaped(features.shape[1:]), indices, indices
            ),
        }
    sides = f"{tiling.multiple}*height, {tiling.multiple}*width"
    shape = jax.export.symbolic_shape(
        f"{batch_size or 'batch'}, {sides}, {channels}",
        constraints=["height >= 2", "width >= 2"],  # as images are extended; see `tiles.py`
    )
    try:
        return {"restored_tiles": exported(restored_tiles, _shaped(shape))}
    except Exception as error:  # a network may fail in any way on a symbolic size
        raise UserError(
            f"{type(network).__name__} cannot be exported for images of any size "
            f"({one_line(error)}); it must not need the image size as a Python integer"
        ) from error


def _shaped(shape, dtype=np.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def _flat(variables):
    return traverse_util.flatten_dict(variables, sep="/")


def checkpoint_name(source: str) -> str:
    """Returns a checkpoint's address, or the name of its file; of a step, with its run's folder."""
    if is_address(source):
        return source
    path = Path(source)
    is_step = path.parent.name == "checkpoints"
    return str(Path(*path.parts[-3:])) if is_step else path.name


def _metadata(pretrained, platforms, batch_size):
    return {
        "source": checkpoint_name(pretrained.source),
        "config": saved_config(pretrained.model),
        "views": views_of(pretrained.model),
        "tiling": tiling_of(pretrained.model)._asdict(),
        "digest": digest(pretrained.variables),
        "platforms": platforms,
        "batch_size": batch_size,
        "conventions": _CONVENTIONS,
        "licence": _LICENCE,
        "versions": {name: version(name) for name in ("vitdeblur_jax", "jax")},
    }
