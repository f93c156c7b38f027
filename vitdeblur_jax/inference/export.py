"""Exported models: StableHLO, which needs JAX and NumPy to run, and nothing of this package.

An exported model is a folder, which is a Python package of its own name:

| file | what it holds |
|---|---|
| NAME.exported | what the network computes, for `jax.export`: window_features and head_tile of a \
network in windows, restored_tiles of any other |
| variables.npz | the variables, float32, which the functions take |
| metadata.json | config, tiling, digest of the variables, platforms, conventions, licence |
| __init__.py, pixels.py, windows.py, tiles.py | restore a whole image with the above |
| third_party/flatbuffers | what `jax.export` reads functions with, where it is not installed |
| LICENSE | of all the code |

The variables lie beside the functions, not in them as constants: both functions read the same,
constants would be compiled along (half a gigabyte for the published model), and a file of arrays
can be inspected.
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
import jax.export
import numpy as np
from flax import traverse_util

from vitdeblur_jax.checkpoints.load_save import load_pretrained
from vitdeblur_jax.checkpoints.pretrained import Pretrained, digest, saved_config
from vitdeblur_jax.inference import pixels, tiles, windows
from vitdeblur_jax.inference.restoration import (
    head_tile,
    restored_tiles,
    tell_of_tiling,
    window_features,
)
from vitdeblur_jax.models.network import tiling_of, views_of
from vitdeblur_jax.models.tilings import Windows
from vitdeblur_jax.utils.errors import UserError, known, one_line
from vitdeblur_jax.utils.files import check_absent, folder_when_whole

PLATFORMS = ("cpu", "cuda", "tpu")
_NAMES_IN_USE = ("flatbuffers", "jax", "jaxlib", "ml_dtypes", "numpy", "opt_einsum", "scipy")
_BESIDE = Path(__file__).parent / "exported"
_CONVENTIONS = {
    "image": "height x width x (3 * views), channels last, RGB; two views: left, then right",
    "values": "float32 in [0, 1]; uint8 and uint16 stand for their whole range",
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
) -> None:
    """Loads a checkpoint and writes it as an exported model.

    Args:
      source: what `load_pretrained` takes or gave.
      destination: the folder to make.
      platforms: of `PLATFORMS`, on which it is to run.
      batch_size: windows or tiles that the function takes at once; by default any number.

    Raises:
      UserError: the checkpoint cannot be loaded, a platform is unknown, the batch size is less
        than 1, `destination` is no name for a package, exists or cannot be written.
    """
    platforms = tuple(dict.fromkeys(map(_platform, platforms)))
    _check_package_name(Path(os.path.abspath(destination)).name)
    if batch_size is not None and batch_size < 1:
        raise UserError(f"the batch size is {batch_size}; it must be 1 or more")
    check_absent(Path(destination))
    pretrained = source if isinstance(source, Pretrained) else load_pretrained(source)
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
            *(module.__file__ for module in (pixels, tiles, windows)),
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
            f"{name!r} is no name for a Python package, which an export is; letters, digits and _ "
            "are, such as my_model"
        )
    if name in sys.stdlib_module_names or name in _NAMES_IN_USE:
        raise UserError(f"the Python package {name!r} would hide another one; choose another name")


def exported_functions(
    pretrained: Pretrained, platforms: tuple[str, ...], batch_size: int | None
) -> dict[str, jax.export.Exported]:
    """Returns what a network computes, as functions of flat variables and arrays.

    Args:
      pretrained: the network; its variables matter by their shapes alone.
      platforms: that they are lowered for.
      batch_size: of windows or tiles; None for any.

    Raises:
      UserError: the network cannot be traced for images of any size.
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
    shape = jax.export.symbolic_shape(f"{batch_size or 'batch'}, {sides}, {channels}")
    try:
        return {"restored_tiles": exported(restored_tiles, _shaped(shape))}
    except Exception as error:  # whatever the network does with a size that is not a number
        raise UserError(
            f"{type(network).__name__} cannot be exported for images of any size "
            f"({one_line(error)}); it must not use the size of an image as a number"
        ) from error


def _shaped(shape, dtype=np.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def _flat(variables):
    return traverse_util.flatten_dict(variables, sep="/")


def _metadata(pretrained, platforms, batch_size):
    return {
        "source": Path(pretrained.source).name,
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
