"""The pickles within the files of ``torch.save``, read as plain data.

A pickle is a program for a small stack machine. Python's own machine lets that program call
whatever is installed. The one here never holds a function or a class: a global is only its name,
and a name can be called only where ``_BUILDERS`` gives it a function of this module that makes
plain data.
"""

import dataclasses
import math
import pickletools
import re
import sys
from collections import OrderedDict
from collections.abc import Callable
from io import BufferedIOBase
from typing import Any

import ml_dtypes
import numpy as np

from vitdeblur_jax.utils.config_checks import shown
from vitdeblur_jax.utils.errors import UserError

_STORAGES = {
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
STORAGE_OF = {dtype: name for name, dtype in _STORAGES.items()}
_NAMES = {"numpy.ndarray", *_STORAGES, *(f"torch.{dtype}" for dtype in STORAGE_OF)}
# The opcodes that push the number, text or bytes written beside them.
_LITERALS = {
    opcode.name
    for opcode in pickletools.opcodes
    if opcode.arg and opcode.stack_after and opcode.stack_after[0] is not pickletools.anyobject
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
# What an opcode takes off the stack: all down to the last mark, or so many values.
_TAKES_MARKED = {"TUPLE", "APPENDS", "SETITEMS"}
_TAKES = {
    **dict.fromkeys(("TUPLE1", "APPEND", "BUILD", "BINPERSID"), 1),
    **dict.fromkeys(("TUPLE2", "SETITEM", "STACK_GLOBAL", "REDUCE", "NEWOBJ"), 2),
    "TUPLE3": 3,
}
_LEAST_BUDGET, _BUDGET_PER_BYTE = 16 * 2**20, 8
_ITEM = 64  # bytes that an opcode or an item of a container counts as
_OPCODES_AT_ONCE = 256
_MOST_AXES = 64
_LARGEST_KEY = 2**31  # larger integers can be chosen so that they all collide in a dict
ADVICE = "if you trust it, load it with PyTorch and save model.state_dict() instead"


class Budget:
    """What the pickles of one file may build, in bytes: a small multiple of the file's size.

    A pickle can name a value again and again, so that a tiny file would build gigabytes.
    """

    def __init__(self, file_size: int):
        self._left = _LEAST_BUDGET + _BUDGET_PER_BYTE * file_size

    def spend(self, size: int) -> None:
        """Takes up `size` bytes.

        Raises:
          UserError: They are not left.
        """
        self._left -= size
        if self._left < 0:
            raise UserError(f"would take many times its own size in memory; {ADVICE}")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Storage:
    raw: np.ndarray  # flat uint8: not every dtype can lend its memory to another array
    dtype: np.dtype
    byteorder: str = "little"


def parse_identity(identity: Any) -> tuple[str, np.dtype, int]:
    """Returns the key, the dtype and the number of bytes of a storage named in the pickle."""
    match identity:
        case ("storage", str(kind), str(key), str(), int(count), *view) if view in ([], [None]):
            if count >= 0:
                return key, _STORAGES[kind], count * _STORAGES[kind].itemsize
    raise ValueError("a storage is named in an unknown way")


def _no_storage(identity: Any) -> Storage:
    raise ValueError("a storage is named where none belongs")


def unpickle(
    stream: BufferedIOBase, budget: Budget, storage: Callable[[Any], Storage] = _no_storage
) -> Any:
    """Runs the stack machine of pickle.

    Args:
        stream: The pickle.
        budget: What it may build.
        storage: Finds what a persistent identity names.

    Returns:
        The object.

    Raises:
        UserError: It holds more than data, or builds more than the budget.
    """
    stack, outer, memo = [], [], {}
    for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if number % _OPCODES_AT_ONCE == 0:
            budget.spend(_OPCODES_AT_ONCE * _ITEM)
        items = [stack.pop() for _ in range(_TAKES.get(opcode.name, 0))][::-1]
        if opcode.name in _TAKES_MARKED:
            items, stack = stack, outer.pop()
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case name if name in _LITERALS:
                stack.append(argument)
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case name if name in _EMPTY:
                stack.append(_EMPTY[name]())
            case "MARK":
                outer.append(stack)
                stack = []
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(items))
            case "APPEND" | "APPENDS" | "SETITEM" | "SETITEMS":
                _extend(stack[-1], items)
            case "PUT" | "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                memo[len(memo) if argument is None else argument] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_allowed(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                stack.append(_allowed(*map(scalar, items)))
            case "REDUCE" | "NEWOBJ":
                name, arguments = items
                stack.append(_BUILDERS[scalar(name)](budget, *_sequence(arguments)))
            case "BUILD":
                stack[-1] = _with_state(budget, stack[-1], *items)
            case "BINPERSID":
                stack.append(storage(*items))
            case name:
                named = name if argument is None else f"{name} {argument!r:.80}"
                raise UserError(f"holds more than data ({named}), which was not run; {ADVICE}")


def _allowed(module: Any, name: Any) -> str:
    full = f"{module}.{name}"
    if full not in _NAMES and full not in _BUILDERS:
        raise UserError(f"holds {full[:80]!r}, which is not data and was not run; {ADVICE}")
    return full


def scalar(value: Any) -> Any:
    # Hashing or printing tuples within tuples could overflow the stack of C or never end.
    if not isinstance(value, str | int | float | bytes | None):
        raise TypeError(f"a {_kind(value)} stands where a name or key should")
    return value


def _checked_keys(keys: list[Any]) -> list[Any]:
    for key in keys:
        if not isinstance(key, str | int | float | bytes | None):
            raise TypeError(f"a {_kind(key)} stands where a key should")
        if isinstance(key, int) and abs(key) >= _LARGEST_KEY:
            raise ValueError("a key is too large a number")
    return keys


def _sequence(value: Any) -> list[Any] | tuple[Any, ...]:
    # A tensor can be iterated too, and a tiny file can hold one of any number of equal elements.
    if type(value) not in (list, tuple):
        raise TypeError(f"a {_kind(value)} stands where a tuple should")
    return value


def _extend(target: Any, items: list[Any]) -> None:
    if isinstance(target, dict):
        target.update(zip(_checked_keys(items[::2]), items[1::2], strict=True))
    elif isinstance(target, list):
        target.extend(items)
    else:
        raise TypeError(f"items for a {_kind(target)}")


def _kind(value: Any) -> str:
    return "None" if value is None else type(value).__name__


def _with_state(budget: Budget, target: Any, state: Any) -> Any:
    match target, state:
        case _ObjectDtype(), tuple():
            pass
        case np.ndarray(), (int(), tuple(shape), _ObjectDtype(), _, list(arrays)):
            if len(arrays) != math.prod(_sizes(shape)):
                raise ValueError("an array of objects of another size than its shape")
            if not all(isinstance(array, np.ndarray) for array in arrays):
                raise UserError("holds a NumPy array of dtype 'O8'; save numbers or tensors")
            budget.spend(_ITEM * len(arrays))
            return list(arrays)
        case OrderedDict(), _:
            pass  # its attributes, such as the versions of the modules in a state_dict
        case dict(), dict():
            budget.spend(2 * _ITEM * len(state))
            target.update(state)  # an argparse.Namespace
        case np.dtype(), (int(), "<" | ">" | "|" | "=" as order, *_):
            target.__setstate__((3, order, None, None, None, -1, -1, 0))
        case np.ndarray(), (int(), tuple(shape), np.dtype() as dtype, is_fortran, data):
            if target.size or target.base is not None or not target.flags.owndata:
                raise ValueError("a second state for a NumPy array")  # it could be in use
            data, shape = _bytes(budget, data), _sizes(shape)
            budget.spend(len(data))
            np.frombuffer(data, dtype).reshape(shape)  # checks the size
            target.__setstate__((1, shape, dtype, bool(is_fortran), data))
        case _:
            raise TypeError(f"a state for a {_kind(target)}")
    return target


def _bytes(budget: Budget, data: Any = b"", encoding: Any = "latin1") -> bytes:
    if isinstance(data, str) and encoding == "latin1":
        budget.spend(len(data))
        return data.encode("latin1")
    if not isinstance(data, bytes):
        raise TypeError(f"a {_kind(data)} stands for bytes")
    return data


class _ObjectDtype:
    """Stands for the dtype of Python objects, which NumPy must not make from a file."""


def _numpy_dtype(budget: Budget, code: Any, *_: Any) -> np.dtype | _ObjectDtype:
    if code == "O8":
        return _ObjectDtype()
    if not (isinstance(code, str) and re.fullmatch("[biuf][1248]", code)):
        raise UserError(f"holds a NumPy array of dtype {shown(code)}; save numbers or tensors")
    return np.dtype(code, False, True)  # a copy, because its byte order may be set


def _numpy_scalar(budget: Budget, dtype: Any, data: Any) -> np.generic:
    if not isinstance(dtype, np.dtype):
        raise TypeError("a NumPy scalar without a dtype")
    (value,) = np.frombuffer(_bytes(budget, data), dtype)
    return value


def _sizes(value: Any) -> tuple[int, ...]:
    """Returns the shape, the strides or the like of an array."""
    sizes = tuple(_sequence(value)[: _MOST_AXES + 1])
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
    # A view takes no memory here, but whoever uses it copies it; a stride of 0 repeats elements.
    budget.spend(elements * width)
    count = raw.size // width
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if elements and last >= count:
        raise ValueError("a tensor reaches outside its storage")
    # PyTorch gives an axis of size 1 any stride, even one that NumPy could not hold.
    steps = [stride * width if n > 1 else 0 for n, stride in zip(shape, strides, strict=True)]
    source = (raw, offset * width, steps) if elements else ()
    array = np.ndarray(shape, dtype, *source)
    if byteorder != sys.byteorder:
        swapped = np.frombuffer(array.tobytes(), np.uint8).reshape(-1, width)[:, ::-1]
        array = np.ndarray(shape, dtype, swapped.copy())
    array.flags.writeable = False
    return array


def _ordered_dict(budget: Budget, pairs: Any = ()) -> OrderedDict[Any, Any]:
    budget.spend(4 * _ITEM * len(_sequence(pairs)))
    if not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
        raise TypeError("something else than pairs for an OrderedDict")
    _checked_keys([key for key, _ in pairs])
    return OrderedDict(pairs)


def _device(budget: Budget, kind: Any, index: Any = None) -> str:
    name = str(scalar(kind)) if index is None else f"{scalar(kind):.32}:{scalar(index)}"
    if not re.fullmatch(r"[a-z_]{1,32}(:\d{1,4})?", name):
        raise ValueError("a device has no proper name")
    return name


_BUILDERS: dict[str, Callable[..., Any]] = {
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
