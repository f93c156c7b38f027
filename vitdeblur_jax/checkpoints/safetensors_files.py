"""Reads and writes safetensors files, with this package's errors."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from vitdeblur_jax.utils.config_checks import shown
from vitdeblur_jax.utils.errors import UserError, one_line
from vitdeblur_jax.utils.files import check_regular, replaced_when_whole

# The other dtypes have no equivalent in NumPy.
_DTYPES = (
    *("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"),
    *("F16", "BF16", "F32", "F64"),
)


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns the tensors by name, and the metadata.

    Raises:
      UserError: The file is missing, damaged or not a safetensors file, or a tensor has a dtype
        other than integer, bool, float16, bfloat16, float32 or float64.
    """
    check_regular(path)
    try:
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            dtypes = {name: file.get_slice(name).get_dtype() for name in names}
            for name, dtype in dtypes.items():
                if dtype not in _DTYPES:
                    raise UserError(f"{path}: {shown(name)} is of dtype {dtype}; save it as F32")
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read as safetensors ({one_line(error)})") from error


def write_safetensors(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
    overwrite: bool = True,
) -> None:
    """Writes tensors and metadata. An existing file is replaced only when the new one is complete.

    Raises:
      UserError: The file cannot be written.
    """
    whole = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    with replaced_when_whole(path, overwrite) as temporary:
        try:
            save_file(whole, temporary, dict(metadata))
        except SafetensorError as error:  # safetensors raises it when the disk is full
            raise OSError(str(error)) from error
