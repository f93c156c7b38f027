"""Reads the weights of HDF5 files written by Keras: whole models, or only weights.

No code is executed: HDF5 holds none, and the model in the file is not built. Features that make the
HDF5 library read other files or load plugins are refused: soft and external links, external and
virtual storage, compression.
"""

import os
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from vitdeblur_jax.utils.config_checks import shown
from vitdeblur_jax.utils.errors import UserError, one_line
from vitdeblur_jax.utils.files import check_regular

_DAMAGE = (
    ArithmeticError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def read_keras_file(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the weights of a Keras model; needs h5py.

    Args:
      path: The file, usually `.hdf5` or `.h5`, written by Keras 2 or `tf.keras`.

    Returns:
      Arrays by Keras' names (`conv2d_1/kernel:0`), in the file's order of layers. The optimizer's
      state is left out.

    Raises:
      UserError: h5py is not installed, or the file is missing, unreadable, damaged, not written by
        Keras, or refers to other files.
    """
    check_regular(path)
    try:
        import h5py
    except ImportError as error:
        message = "reading HDF5 files needs h5py: pip install 'vitdeblur_jax[hdf5]'"
        raise UserError(f"{path}: {message}") from error
    try:
        with h5py.File(path, "r") as file:
            return _Weights(h5py, os.path.getsize(path)).of(file["/"])
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except _DAMAGE as error:
        reason = f"damaged, or not an HDF5 file by Keras ({one_line(error)})"
        raise UserError(f"{path}: {reason}; fetch or save it again") from error


class _Weights:
    """Collects the weights of an open file.

    Attributes:
      h5py: The library.
      bytes_left: The bytes that arrays may still take: at most the file's size in all. HDF5 reads
        unallocated data as zeros, so an array could be far larger than the file.
    """

    def __init__(self, h5py: Any, file_size: int):
        self.h5py = h5py
        self.bytes_left = file_size

    def of(self, root: Any) -> dict[str, np.ndarray]:
        is_whole_model = root.id.links.exists(b"model_weights")
        model = self._inside(root, "model_weights") if is_whole_model else root
        if not _has_names(model, "layer_names"):
            raise UserError("is an HDF5 file, but not written by Keras 2 (it has no layer_names)")
        arrays = {}
        for layer in _names(model, "layer_names"):
            group = self._inside(model, layer)
            for name in _names(group, "weight_names"):
                if name in arrays:
                    raise UserError(f"has two weights named {shown(name)}")
                arrays[name] = self._array(group, name)
        return arrays

    def _inside(self, group: Any, path: str) -> Any:
        """Returns the item at a path below a group, if every step is a hard link.

        Uses the low-level links, because Group.get(getlink=True) would open another file.
        """
        for step in path.split("/"):
            links = group.id.links if isinstance(group, self.h5py.Group) else None
            if not step or links is None or not links.exists(step.encode()):
                raise UserError(f"lacks {shown(path)}, which it lists; fetch or save it again")
            if links.get_info(step.encode()).type != self.h5py.h5l.TYPE_HARD:
                raise UserError(f"has a link in place of {shown(path)}; save it again with Keras")
            group = group[step]
        return group

    def _array(self, group: Any, name: str) -> np.ndarray:
        dataset = self._inside(group, name)
        if not isinstance(dataset, self.h5py.Dataset) or dataset.dtype.kind != "f":
            raise UserError(f"{shown(name)} is not an array of floating-point numbers")
        if dataset.chunks or dataset.is_virtual or dataset.external:
            raise UserError(
                f"{shown(name)} is compressed, or stored in another file; save it again with Keras"
            )
        self.bytes_left -= dataset.nbytes
        if self.bytes_left < 0:
            raise UserError("its weights are larger than the file; fetch or save it again")
        return dataset[()]


def _has_names(group: Any, attribute: str) -> bool:
    return attribute in group.attrs or f"{attribute}0" in group.attrs


def _names(group: Any, attribute: str) -> list[str]:
    """Returns a list of names; Keras splits a long list over numbered attributes."""
    if attribute in group.attrs:
        parts = [group.attrs[attribute]]
    else:
        parts, i = [], 0
        while f"{attribute}{i}" in group.attrs:
            parts.append(group.attrs[f"{attribute}{i}"])
            i += 1
    names = [name for part in parts for name in np.ravel(part).tolist()]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def renumbered(arrays: dict[str, np.ndarray], wanted: Iterable[str]) -> dict[str, np.ndarray]:
    """Returns the arrays with layers renumbered as in `wanted`.

    Keras numbers the layers of each kind (`conv2d`, `conv2d_1`, ...) in order of creation, from 1
    or, in `tf.keras`, from 0. The count continues over all models of a process, so the same network
    may have other numbers in another file.

    Args:
      arrays: Arrays by Keras' names.
      wanted: The names in the network's `published_entries`.

    Returns:
      The same arrays. A kind of layer with another count than in `wanted` keeps its numbers.
    """
    stored_numbers, wanted_numbers = _numbers(arrays), _numbers(wanted)
    new = {}
    for kind, numbers in stored_numbers.items():
        same = len(numbers) == len(wanted_numbers.get(kind, ()))
        targets = wanted_numbers[kind] if same else numbers
        new[kind] = dict(zip(sorted(numbers), sorted(targets), strict=True))
    renamed = {}
    for name, array in arrays.items():
        kind, number, rest = _parse(name)
        number = new[kind][number]
        renamed[f"{kind}_{number}{rest}" if number else f"{kind}{rest}"] = array
    return renamed


def _numbers(names: Iterable[str]) -> dict[str, set[int]]:
    numbers: dict[str, set[int]] = {}
    for name in names:
        kind, number, _ = _parse(name)
        numbers.setdefault(kind, set()).add(number)
    return numbers


def _parse(name: str) -> tuple[str, int, str]:
    """Returns the layer's kind and number, and the rest of a weight's name with its slash."""
    layer, slash, rest = name.partition("/")
    kind, number = re.fullmatch(r"(.*?)(?:_([1-9]\d{0,8}))?", layer, re.DOTALL).groups()
    return kind, int(number or 0), slash + rest
