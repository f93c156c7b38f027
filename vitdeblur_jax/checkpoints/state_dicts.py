"""State dicts within the files that training programs write, whatever they are wrapped in."""

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

# Where state dicts lie, the ones that are preferred first: those of BasicSR's averages, then those
# that training goes on from.
_KEYS = ("state_dict", "model", "params_ema", "params")

_OTHER_READERS = {".hdf5": read_keras_file, ".h5": read_keras_file, ".npz": read_numpy_file}


def read_state_dict(path: Path) -> tuple[StateDict, str | None]:
    """Returns the state dict in a file, and its configuration as JSON.

    Args:
      path: `.safetensors`, Keras' `.hdf5` and `.h5`, NumPy's and TensorLayer's `.npz`; PyTorch's
        with any other ending, such as `.pth`, `.pt`, `.tar`, `.ckpt` or `.pytorch`.

    Returns:
      Arrays by name, and the text that this package stored as "config", or None.

    Raises:
      UserError: the file cannot be read or holds no state dict.
    """
    if path.suffix == ".safetensors":
        state_dict, metadata = read_safetensors(path)
        return state_dict, metadata.get("config")
    if path.suffix in _OTHER_READERS:
        return _OTHER_READERS[path.suffix](path), None
    contents = read_pytorch_file(path)
    state_dict = find_state_dict(contents, str(path))
    saved = contents.get("config") if contents is not state_dict else None
    return state_dict, saved if isinstance(saved, str) else None


def find_state_dict(contents: Any, where: str) -> StateDict:
    """Returns the one mapping of arrays in what a PyTorch file holds.

    It is looked for at the top, at "state_dict", "model", "params_ema" and "params", and then at
    any other key. A choice between several is printed.

    Raises:
      UserError: there is none, or none that is to be preferred; `where` names the file.
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
            raise UserError(f"{said}; save one of them alone")
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
    """Returns what keeps the likeliest mapping in a file from being a state dict."""
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
