"""The plain values that a pickle may build: tensors, NumPy arrays, containers, and their limits."""

import dataclasses
import math
import re
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from vitdeblur_jax.utils.config_checks import shown
from vitdeblur_jax.utils.errors import UserError

STORAGES = {
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.BoolStorage": np.dtype(np.bool_),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.ShortStorage": np.dtype(np.int16),
}
STORAGE_OF = {dtype: name for name, dtype in STORAGES.items()}
_LEAST_BUDGET, _BUDGET_PER_BYTE = 16 * 2**20, 8
ITEM_SIZE = 64  # bytes charged for an opcode or an item of a container
_MOST_AXES = 64
LARGEST_KEY = 2**31  # larger integers could be chosen to collide in a dict
ADVICE = "if you trust it, load it with PyTorch and save model.state_dict() instead"


class Budget:
    """The memory that the pickles of a file may use: a small multiple of the file's size.

    A pickle can refer to a value many times, so a tiny file could build gigabytes.
    """

    def __init__(self, file_size: int):
        self._left = _LEAST_BUDGET + _BUDGET_PER_BYTE * file_size

    def spend(self, size: int) -> None:
        """Uses `size` bytes of the budget.

        Raises:
          UserError: The budget is exceeded.
        """
        self._left -= size
        if self._left < 0:
            raise UserError(f"would take many times its own size in memory; {ADVICE}")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Storage:
    raw: np.ndarray  # flat uint8, because not every dtype supports the buffer protocol
    dtype: np.dtype
    byteorder: str = "little"


def scalar(value: Any) -> Any:
    # Hashing or printing nested tuples could overflow the C stack or never end.
    if not isinstance(value, str | int | float | bytes | None):
        raise TypeError(f"expected a name or key, got a {kind_of(value)}")
    return value


def checked_keys(keys: list[Any]) -> list[Any]:
    for key in keys:
        if not isinstance(key, str | int | float | bytes | None):
            raise TypeError(f"expected a key, got a {kind_of(key)}")
        if isinstance(key, int) and abs(key) >= LARGEST_KEY:
            raise ValueError("a key is too large a number")
    return keys


def sequence(value: Any) -> list[Any] | tuple[Any, ...]:
    # A tensor is iterable too, and a tiny file can hold one with any number of equal elements.
    if type(value) not in (list, tuple):
        raise TypeError(f"expected a tuple, got a {kind_of(value)}")
    return value


def kind_of(value: Any) -> str:
    return "None" if value is None else type(value).__name__


def with_state(budget: Budget, target: Any, state: Any) -> Any:
    match target, state:
        case _ObjectDtype(), tuple():
            pass
        case np.ndarray(), (int(), tuple(shape), _ObjectDtype(), _, list(arrays)):
            if len(arrays) != math.prod(_sizes(shape)):
                raise ValueError("an array of objects whose size does not match its shape")
            if not all(isinstance(array, np.ndarray) for array in arrays):
                raise UserError("holds a NumPy array of dtype 'O8'; save numbers or tensors")
            budget.spend(ITEM_SIZE * len(arrays))
            return list(arrays)
        case OrderedDict(), _:
            pass  # its attributes, such as the module versions of a state_dict, are dropped
        case dict(), dict():
            budget.spend(2 * ITEM_SIZE * len(state))
            target.update(state)  # an argparse.Namespace
        case np.dtype(), (int(), "<" | ">" | "|" | "=" as order, *_):
            target.__setstate__((3, order, None, None, None, -1, -1, 0))
        case np.ndarray(), (int(), tuple(shape), np.dtype() as dtype, is_fortran, data):
            if target.size or target.base is not None or not target.flags.owndata:
                raise ValueError("a second state for a NumPy array")  # the array could be in use
            data, shape = _bytes(budget, data), _sizes(shape)
            budget.spend(len(data))
            np.frombuffer(data, dtype).reshape(shape)  # checks the size
            target.__setstate__((1, shape, dtype, bool(is_fortran), data))
        case _:
            raise TypeError(f"a state for a {kind_of(target)}")
    return target


def _bytes(budget: Budget, data: Any = b"", encoding: Any = "latin1") -> bytes:
    if isinstance(data, str) and encoding == "latin1":
        budget.spend(len(data))
        return data.encode("latin1")
    if not isinstance(data, bytes):
        raise TypeError(f"expected bytes, got a {kind_of(data)}")
    return data


class _ObjectDtype:
    """Represents the dtype of Python objects, which must not be built from a file."""


def _numpy_dtype(budget: Budget, code: Any, *_: Any) -> np.dtype | _ObjectDtype:
    if code == "O8":
        return _ObjectDtype()
    if not (isinstance(code, str) and re.fullmatch("[biuf][1248]", code)):
        raise UserError(f"holds a NumPy array of dtype {shown(code)}; save numbers or tensors")
    return np.dtype(code, False, True)  # a copy, because its byte order may be changed


def _numpy_scalar(budget: Budget, dtype: Any, data: Any) -> np.generic:
    if not isinstance(dtype, np.dtype):
        raise TypeError("a NumPy scalar without a dtype")
    (value,) = np.frombuffer(_bytes(budget, data), dtype)
    return value


def _sizes(value: Any) -> tuple[int, ...]:
    """Returns a shape, strides or offsets as a checked tuple of integers."""
    sizes = tuple(sequence(value)[: _MOST_AXES + 1])
    if len(sizes) > _MOST_AXES:
        raise ValueError("a tensor of too many axes")
    if not all(isinstance(n, int) and 0 <= n < 2**63 for n in sizes):
        raise ValueError("a tensor with a size that is negative or too large")
    return sizes


def _tensor(
    budget: Budget, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any
) -> np.ndarray:
    if not isinstance(storage, Storage):
        raise TypeError("a tensor without a storage")
    shape, strides, (offset,) = _sizes(shape), _sizes(strides), _sizes((offset,))
    raw, dtype, byteorder = storage.raw, storage.dtype, storage.byteorder
    width, elements = dtype.itemsize, math.prod(shape)
    # A view takes no memory yet, but it is copied later, and a stride of 0 repeats elements.
    budget.spend(elements * width)
    count = raw.size // width
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if elements and last >= count:
        raise ValueError("a tensor reaches outside its storage")
    # PyTorch allows any stride for an axis of size 1, even one that NumPy cannot represent.
    steps = [stride * width if n > 1 else 0 for n, stride in zip(shape, strides, strict=True)]
    source = (raw, offset * width, steps) if elements else ()
    array = np.ndarray(shape, dtype, *source)
    if byteorder != sys.byteorder:
        swapped = np.frombuffer(array.tobytes(), np.uint8).reshape(-1, width)[:, ::-1]
        array = np.ndarray(shape, dtype, swapped.copy())
    array.flags.writeable = False
    return array


def _ordered_dict(budget: Budget, pairs: Any = ()) -> OrderedDict[Any, Any]:
    budget.spend(4 * ITEM_SIZE * len(sequence(pairs)))
    if not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
        raise TypeError("an OrderedDict from something other than pairs")
    checked_keys([key for key, _ in pairs])
    return OrderedDict(pairs)


def _device(budget: Budget, kind: Any, index: Any = None) -> str:
    name = str(scalar(kind)) if index is None else f"{scalar(kind):.32}:{scalar(index)}"
    if not re.fullmatch(r"[a-z_]{1,32}(:\d{1,4})?", name):
        raise ValueError("a device has an invalid name")
    return name


BUILDERS: dict[str, Callable[..., Any]] = {
    "__builtin__.bytes": _bytes,
    "_codecs.encode": _bytes,
    "argparse.Namespace": lambda budget: {},
    "collections.OrderedDict": _ordered_dict,
    "numpy.dtype": _numpy_dtype,
    "torch.Size": lambda budget, sizes=(): _sizes(sizes),
    "torch.device": _device,
    "torch._utils._rebuild_parameter": lambda budget, data, *_: data,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    # NumPy 2 renamed the module.
    "numpy.core.multiarray._reconstruct": lambda *_: np.empty(0),
    "numpy._core.multiarray._reconstruct": lambda *_: np.empty(0),
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
}
