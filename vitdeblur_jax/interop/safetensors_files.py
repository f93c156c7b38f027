"""Safetensors files in and out, with this package's errors."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from vitdeblur_jax.errors import UserError, one_line
from vitdeblur_jax.files import replaced_when_whole


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns the tensors by name, and the metadata.

    Raises:
      UserError: the file is missing, truncated or something else.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read as safetensors ({one_line(error)})") from error


def write_safetensors(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes the tensors and the metadata; `path` is replaced only when all is written.

    Raises:
      UserError: it cannot be written there.
    """
    whole = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    with replaced_when_whole(path) as temporary:
        try:
            save_file(whole, temporary, dict(metadata))
        except SafetensorError as error:  # how safetensors tells of a full disk
            raise OSError(str(error)) from error
