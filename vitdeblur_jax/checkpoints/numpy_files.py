"""Reads weights from NumPy's archives, including the lists of arrays that TensorLayer writes.

Arrays of objects are pickles. They are read as plain data, as in PyTorch files: no code is
executed.
"""

import os
import tokenize
import warnings
import zipfile
import zlib
from pathlib import PurePath
from typing import IO

import numpy as np

from vitdeblur_jax.checkpoints.pickle_reading import unpickle
from vitdeblur_jax.checkpoints.pickle_values import Budget
from vitdeblur_jax.checkpoints.pytorch_files import DAMAGE
from vitdeblur_jax.models.published import position_name
from vitdeblur_jax.utils.config_checks import shown
from vitdeblur_jax.utils.errors import UserError, one_line
from vitdeblur_jax.utils.files import check_regular

_DAMAGE = (*DAMAGE, tokenize.TokenError, zlib.error)
_LIST = "params"  # where TensorLayer stores a list of arrays


def read_numpy_file(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the arrays of a `.npz` file.

    Args:
      path: The file, written by `numpy.savez` or by TensorLayer.

    Returns:
      Arrays by name. The arrays of TensorLayer's list format have no names and are called
      `param_000`, `param_001` and so on.

    Raises:
      UserError: The file is missing, unreadable, damaged, not a NumPy archive, or holds something
        other than arrays of numbers.
    """
    check_regular(path)
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            return _read(archive, Budget(os.path.getsize(path)))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (OSError, MemoryError) as error:
        raise UserError(f"{path}: cannot be read: {one_line(error)}") from error
    except _DAMAGE as error:
        reason = f"damaged, or not a NumPy archive ({one_line(error)})"
        raise UserError(f"{path}: {reason}; fetch or save it again") from error


def _read(archive: zipfile.ZipFile, budget: Budget) -> dict[str, np.ndarray]:
    arrays = {}
    for entry in archive.infolist():
        name = PurePath(entry.filename)
        if name.suffix != ".npy":
            raise UserError(f"is a zip archive, but not by NumPy: it has {shown(entry.filename)}")
        budget.spend(entry.file_size)
        with archive.open(entry) as stream:
            value = _array(stream, budget)
        name = str(name.with_suffix(""))
        if isinstance(value, np.ndarray):
            arrays[name] = value
        elif name == _LIST:
            arrays |= {position_name(i): array for i, array in enumerate(value)}
        else:
            raise UserError(f"{shown(name)} is an array of objects; save arrays of numbers")
    return arrays


def _array(stream: IO[bytes], budget: Budget) -> np.ndarray | list[np.ndarray]:
    shape, is_fortran, dtype = _header(stream)
    if dtype.hasobject:
        value = unpickle(stream, budget)
        if not isinstance(value, list):
            raise UserError("has an array of objects that is not a list; save arrays of numbers")
        return value
    if dtype.kind not in "biuf":
        raise UserError(f"holds an array of dtype {dtype}; save arrays of numbers")
    data = stream.read()
    return np.frombuffer(data, dtype).reshape(shape, order="F" if is_fortran else "C")


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read:
        raise UserError(f"is in version {version} of NumPy's format; save it as version 1 or 2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about headers written by Python 2
        return read[version](stream)
