"""Models that leave: StableHLO, which needs JAX and NumPy to run, and nothing of this package.

An exported model is a folder, which is a Python package of its own name:

| file | what it holds |
|---|---|
| window_features.exported, head_tile.exported | all that the network computes, for `jax.export` |
| variables.npz | the variables, float32, which both functions take |
| metadata.json | configuration, digest of the variables, platforms, conventions, licence |
| __init__.py, tiling.py | restore a whole image with the above |
| third_party/flatbuffers | what `jax.export` reads functions with, where it is not installed |
| LICENSE | of all the code |

The variables lie beside the functions rather than in them as constants: both functions read the
same, constants would be compiled along (half a gigabyte for `base`), and a file of arrays can be
looked at.
"""

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
from vitdeblur_jax.checkpoints.pretrained import Pretrained, digest
from vitdeblur_jax.inference import tiling
from vitdeblur_jax.inference.restoration import head_tile, tell_of_stride, window_features
from vitdeblur_jax.utils.errors import UserError, known
from vitdeblur_jax.utils.files import check_absent, folder_when_whole

PLATFORMS = ("cpu", "cuda", "tpu")
_NAMES_IN_USE = ("flatbuffers", "jax", "jaxlib", "ml_dtypes", "numpy", "opt_einsum", "scipy")
_BESIDE = Path(__file__).parent / "exported"
_CONVENTIONS = {
    "image": "height x width x (3 * views), channels last, RGB; two views: left, then right",
    "values": "float32 in [0, 1]; uint8 and uint16 stand for their whole range",
    "output": "float32, not clipped",
    "whole_image": "windows of `window` pixels, `stride` apart, the last moved back to the edge; "
    "extended beforehand by `margin` pixels a side, by reflection",
}
_LICENCE = (
    "the code: Apache-2.0, see LICENSE; the variables: the licence of the checkpoint they came from"
)


def export(
    source: str | Path,
    destination: str | Path,
    platforms: Iterable[str] = PLATFORMS,
    batch_size: int | None = None,
) -> None:
    """Loads a checkpoint and writes it as an exported model.

    Args:
      source: a checkpoint, or the name of weights that come with the package.
      destination: the folder to make.
      platforms: of `PLATFORMS`, on which it is to run.
      batch_size: windows that the function takes at once; by default any number.

    Raises:
      UserError: the checkpoint cannot be loaded, a platform is unknown, the batch size is less
        than 1, `destination` is no name for a package, exists or cannot be written.
    """
    platforms = tuple(dict.fromkeys(map(_platform, platforms)))
    _check_package_name(Path(os.path.abspath(destination)).name)
    if batch_size is not None and batch_size < 1:
        raise UserError(f"the batch size is {batch_size}; it must be 1 or more")
    check_absent(Path(destination))
    pretrained = load_pretrained(source)
    tell_of_stride(pretrained.model, None)
    with folder_when_whole(destination) as folder:
        for name, function in exported_functions(pretrained, platforms, batch_size).items():
            (folder / f"{name}.exported").write_bytes(function.serialize())
        np.savez(folder / "variables.npz", **_flat(pretrained.variables))
        metadata = _metadata(pretrained, platforms, batch_size)
        (folder / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")
        shutil.copy(_BESIDE / "restore.py", folder / "__init__.py")
        for file in (_BESIDE / "LICENSE", tiling.__file__):
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
    """Returns `window_features` and `head_tile` as functions of flat variables and arrays.

    Args:
      pretrained: the model; its variables matter by their shapes alone.
      platforms: that they are lowered for.
      batch_size: of `window_features`; None for any.
    """
    model = pretrained.model

    def features_of_windows(variables, windows):
        return window_features(model, traverse_util.unflatten_dict(variables, "/"), windows)

    def tile_of_head(variables, *arguments):
        return head_tile(model, traverse_util.unflatten_dict(variables, "/"), *arguments)

    def shaped(shape, dtype=np.float32):
        return jax.ShapeDtypeStruct(shape, dtype)

    variables = {name: shaped(leaf.shape) for name, leaf in _flat(pretrained.variables).items()}
    square = (model.window, model.window, 3 * model.views)
    side = model.window - model.input_kernel + 1
    (batch,) = (batch_size,) if batch_size else jax.export.symbolic_shape("batch")
    return {
        "window_features": jax.export.export(jax.jit(features_of_windows), platforms=platforms)(
            variables, shaped((batch, *square))
        ),
        "head_tile": jax.export.export(jax.jit(tile_of_head), platforms=platforms)(
            variables,
            shaped(square),
            shaped((side, side, model.feature_channels)),
            shaped((side,), np.int32),
            shaped((side,), np.int32),
        ),
    }


def _flat(variables):
    return traverse_util.flatten_dict(variables, sep="/")


def _metadata(pretrained, platforms, batch_size):
    return {
        "source": Path(pretrained.source).name,
        "configuration": pretrained.config.to_dict(),
        "digest": digest(pretrained.variables),
        "platforms": platforms,
        "batch_size": batch_size,
        "conventions": _CONVENTIONS,
        "licence": _LICENCE,
        "versions": {name: version(name) for name in ("vitdeblur_jax", "jax")},
    }
