"""Finds the state dict in a checkpoint file of a training program."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vitdeblur_jax.checkpoints.keras_files import read_keras_file
from vitdeblur_jax.checkpoints.numpy_files import read_numpy_file
from vitdeblur_jax.checkpoints.pytorch_files import read_pytorch_file
from vitdeblur_jax.checkpoints.safetensors_files import read_safetensors
from vitdeblur_jax.models.published import StateDict
from vitdeblur_jax.utils.config_checks import shown
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.output import tell
from vitdeblur_jax.utils.shapes import few_of

# The keys of state dicts, in order of preference. BasicSR saves "params_ema", the averaged weights,
# beside "params".
_KEYS = ("state_dict", "model", "params_ema", "params")

# What people have on disk instead of a checkpoint, by the start of the file in lower case.
_NOT_DOWNLOADED = {
    b"<!doctype html": "a web page, such as a warning before a download; download the file itself",
    b"<html": "a web page, such as a warning before a download; download the file itself",
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file itself with `git lfs pull`",
}
_OTHER_READERS = {".hdf5": read_keras_file, ".h5": read_keras_file, ".npz": read_numpy_file}


def read_state_dict(path: Path) -> tuple[StateDict, str | None]:
    """Reads the state dict in a checkpoint file.

    Args:
      path: `.safetensors`, Keras' `.hdf5` or `.h5`, or `.npz` of NumPy or TensorLayer. Any other
        ending, such as `.pth`, `.pt`, `.tar`, `.ckpt` or `.pytorch`, is read as a PyTorch file.

    Returns:
      The arrays by name, and the config as JSON if this package wrote the file, else None.

    Raises:
      UserError: The file cannot be read or holds no state dict.
    """
    _check_is_downloaded(path)
    if path.suffix == ".safetensors":
        state_dict, metadata = read_safetensors(path)
        return state_dict, _own_config(metadata.get("config"))
    if path.suffix in _OTHER_READERS:
        return _OTHER_READERS[path.suffix](path), None
    contents = read_pytorch_file(path)
    state_dict = find_state_dict(contents, str(path))
    saved = contents.get("config") if contents is not state_dict else None
    return state_dict, _own_config(saved)


def _own_config(saved: Any) -> str | None:
    """Returns the JSON text of this package's config; other programs save others as "config"."""
    return saved if isinstance(saved, str) and '"network"' in saved else None


def _check_is_downloaded(path):
    try:
        with path.open("rb") as file:
            start = file.read(256).lstrip().lower()
    except OSError:
        return  # the reader says why
    for beginning, what in _NOT_DOWNLOADED.items():
        if start.startswith(beginning):
            raise UserError(f"{path}: is {what}")


def find_state_dict(contents: Any, where: str) -> StateDict:
    """Returns the state dict in the contents of a PyTorch file.

    Looks at the top level, then at the keys "state_dict", "model", "params_ema" and "params", then
    at any other key. If there are several, prints which one is loaded.

    Args:
      contents: The contents of the file.
      where: The file's name, for errors.

    Raises:
      UserError: There is no state dict, or several without one of these keys.
    """
    if _is_state_dict(contents):
        return contents
    if not isinstance(contents, Mapping):
        raise UserError(f"{where} holds no state dict, but a {type(contents).__name__}")
    found = {key: value for key, value in contents.items() if _is_state_dict(value)}
    if not found:
        raise UserError(f"{where} holds no state dict{_reason(contents)}")
    preferred = [key for key in _KEYS if key in found]
    if len(found) > 1:
        said = f"{where} holds several state dicts, at {few_of(map(shown, found))}"
        if not preferred:
            raise UserError(f"{said}; save only one of them")
        tell(f"{said}; {preferred[0]!r} is loaded")
    return found[[*preferred, *found][0]]


def _is_state_dict(value):
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(key, str) for key in value)
        and all(isinstance(item, np.ndarray) for item in value.values())
    )


def _reason(contents):
    """Returns why the most likely mapping in a file is not a state dict."""
    inner = (contents.get(key) for key in _KEYS)
    for mapping in (*inner, contents):
        entries = mapping.items() if isinstance(mapping, Mapping) else ()
        others = [shown(key) for key, value in entries if not isinstance(value, np.ndarray)]
        if len(others) < len(entries):
            wrong = [shown(key) for key, _ in entries if not isinstance(key, str)]
            if wrong:
                return f": names must be strings, not {few_of(wrong)}"
            return f": no arrays are at {few_of(others)}"
    return f"; it has the keys {few_of(map(shown, contents))}" if contents else "; it is empty"
