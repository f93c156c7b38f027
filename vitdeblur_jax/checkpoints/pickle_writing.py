"""Writes the pickles in the files of `torch.save`."""

import math
import pickle
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from vitdeblur_jax.checkpoints.pickle_values import STORAGE_OF
from vitdeblur_jax.utils.errors import UserError


def pickle_contents(contents: Any) -> tuple[bytes, list[np.ndarray]]:
    """Returns the pickle of `contents`, and the arrays to which it refers by index."""
    arrays: list[np.ndarray] = []
    parts = list(_emit(contents, "", arrays))
    return b"".join([pickle.PROTO, b"\2", *parts, pickle.STOP]), arrays


def _emit(value: Any, place: str, arrays: list[np.ndarray]) -> Iterator[bytes]:
    """Yields the pickle of `value` and appends its arrays to `arrays`."""
    match value:
        case None:
            yield pickle.NONE
        case bool() | np.bool_():
            yield pickle.NEWTRUE if value else pickle.NEWFALSE
        case int() | np.integer() if -(2**31) <= value < 2**31:
            yield pickle.BININT + struct.pack("<i", value)
        case int() | np.integer() if -(2**63) <= value < 2**63:
            yield pickle.LONG1 + b"\x08" + struct.pack("<q", value)
        case float() | np.floating():
            yield pickle.BINFLOAT + struct.pack(">d", value)
        case str():
            text = value.encode("utf-8", "surrogatepass")
            yield pickle.BINUNICODE + struct.pack("<I", len(text)) + text
        case dict():
            yield pickle.EMPTY_DICT + pickle.MARK
            for key, item in value.items():
                if not isinstance(key, str | int | float | None):
                    raise UserError(f"cannot write the key {key!r:.80} of contents{place}")
                yield from _emit(key, place, arrays)
                yield from _emit(item, f"{place}[{key!r}]", arrays)
            yield pickle.SETITEMS
        case list() | tuple():
            yield pickle.MARK if isinstance(value, tuple) else pickle.EMPTY_LIST + pickle.MARK
            for index, item in enumerate(value):
                yield from _emit(item, f"{place}[{index}]", arrays)
            yield pickle.TUPLE if isinstance(value, tuple) else pickle.APPENDS
        case np.ndarray() if value.dtype.newbyteorder("=") in STORAGE_OF:
            yield from _emit_tensor(value, arrays)
        case _:
            kind = f"{type(value).__name__} {getattr(value, 'dtype', '')}".strip()
            raise UserError(f"cannot write contents{place} ({kind}); convert it to a NumPy array")


def _emit_tensor(array: np.ndarray, arrays: list[np.ndarray]) -> Iterator[bytes]:
    """Yields the calls that rebuild a contiguous tensor with its own storage."""
    strides = tuple(math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim))
    storage = STORAGE_OF[array.dtype.newbyteorder("=")]
    yield _emit_global("torch._utils._rebuild_tensor_v2") + pickle.MARK
    yield pickle.MARK + _emit_plain("storage") + _emit_global(storage)
    yield _emit_plain(str(len(arrays)), "cpu", array.size) + pickle.TUPLE + pickle.BINPERSID
    yield _emit_plain(0, array.shape, strides, False)
    yield _emit_global("collections.OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    yield pickle.TUPLE + pickle.REDUCE
    arrays.append(array)


def _emit_plain(*values: Any) -> bytes:
    return b"".join(part for value in values for part in _emit(value, "", []))


def _emit_global(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return pickle.GLOBAL + f"{module}\n{attribute}\n".encode("ascii")
