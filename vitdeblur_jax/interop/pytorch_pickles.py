"""The pickles within the files of ``torch.save``, read and written as plain data.

A pickle is a program for a small stack machine. Python's own machine lets that program call
whatever is installed. The one here never holds a function or a class: a global is only its name,
and a name can be called only where ``_BUILDERS`` gives it a function of this module that makes
plain data.
"""

import dataclasses
import math
import pickle
import pickletools
import re
import struct
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from typing import Any

import ml_dtypes
import numpy as np

from vitdeblur_jax.errors import UserError

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
_STORAGE_OF = {dtype: name for name, dtype in _STORAGES.items()}
_NAMES = {"numpy.ndarray", *_STORAGES, *(f"torch.{dtype}" for dtype in _STORAGE_OF)}
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
# A stride of 0 repeats an element: without a limit, a tiny file could claim a terabyte.
_MOST_REPEATED = 2**28
ADVICE = "if you trust it, load it with PyTorch and save model.state_dict() instead"


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


def unpickle(stream: BufferedIOBase, storage: Callable[[Any], Storage] = _no_storage) -> Any:
    """Runs the stack machine of pickle; ``storage`` finds what a persistent identity names."""
    stack, outer, memo = [], [], {}
    for opcode, argument, _ in pickletools.genops(stream):
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
                stack.append(_BUILDERS[scalar(name)](*_sequence(arguments)))
            case "BUILD":
                _set_state(stack[-1], *items)
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
        raise TypeError(f"a {type(value).__name__} stands where a name or key should")
    return value


def _sequence(value: Any) -> list[Any] | tuple[Any, ...]:
    # A tensor can be iterated too, and a tiny file can hold one of any number of equal elements.
    if type(value) not in (list, tuple):
        raise TypeError(f"a {type(value).__name__} stands where a tuple should")
    return value


def _extend(target: Any, items: list[Any]) -> None:
    if isinstance(target, dict):
        target.update(zip(map(scalar, items[::2]), items[1::2], strict=True))
    elif isinstance(target, list):
        target.extend(items)
    else:
        raise TypeError(f"items for a {type(target).__name__}")


def _set_state(target: Any, state: Any) -> None:
    match target, state:
        case OrderedDict(), _:
            pass  # its attributes, such as the versions of the modules in a state_dict
        case dict(), dict():
            target.update(state)  # an argparse.Namespace
        case np.dtype(), (int(), "<" | ">" | "|" | "=" as order, *_):
            target.__setstate__((3, order, None, None, None, -1, -1, 0))
        case np.ndarray(), (int(), tuple(shape), np.dtype() as dtype, is_fortran, data):
            if target.size or target.base is not None or not target.flags.owndata:
                raise ValueError("a second state for a NumPy array")  # it could be in use
            if np.frombuffer(_bytes(data), dtype).reshape(shape).shape != shape:
                raise ValueError("a NumPy array of a negative size")
            target.__setstate__((1, shape, dtype, bool(is_fortran), _bytes(data)))
        case _:
            raise TypeError(f"a state for a {type(target).__name__}")


def _bytes(data: Any = b"", encoding: Any = "latin1") -> bytes:
    if isinstance(data, str) and encoding == "latin1":
        return data.encode("latin1")
    if not isinstance(data, bytes):
        raise TypeError(f"a {type(data).__name__} stands for bytes")
    return data


def _numpy_dtype(code: Any, *_: Any) -> np.dtype:
    if not re.fullmatch("[biuf][1248]", str(scalar(code))):
        raise UserError(f"holds a NumPy array of dtype {code!r:.20}; save numbers or tensors")
    return np.dtype(code, False, True)  # a copy, because its byte order may be set


def _numpy_scalar(dtype: Any, data: Any) -> np.generic:
    if not isinstance(dtype, np.dtype):
        raise TypeError("a NumPy scalar without a dtype")
    return np.frombuffer(_bytes(data), dtype)[0]


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> np.ndarray:
    if not isinstance(storage, Storage):
        raise TypeError("a tensor without a storage")
    sizes = (offset, *_sequence(shape), *_sequence(strides))
    if not all(isinstance(n, int) and n >= 0 for n in sizes):
        raise ValueError("a tensor with a negative size")
    raw, dtype, byteorder = storage.raw, storage.dtype, storage.byteorder
    width, elements = dtype.itemsize, math.prod(shape)
    count = raw.size // width
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    swaps = byteorder != sys.byteorder  # which makes a copy of all elements
    if elements and (last >= count or elements > (count if swaps else max(count, _MOST_REPEATED))):
        raise ValueError("a tensor reaches outside its storage")
    # PyTorch gives an axis of size 1 any stride, even one that NumPy could not hold.
    steps = [stride * width if n > 1 else 0 for n, stride in zip(shape, strides, strict=True)]
    source = (raw, offset * width, steps) if elements else ()
    array = np.ndarray(shape, dtype, *source)
    if swaps:
        swapped = np.frombuffer(array.tobytes(), np.uint8).reshape(-1, width)[:, ::-1]
        array = np.ndarray(shape, dtype, swapped.copy())
    array.flags.writeable = False
    return array


def _ordered_dict(pairs: Any = ()) -> OrderedDict[Any, Any]:
    return OrderedDict((scalar(key), value) for key, value in map(_sequence, _sequence(pairs)))


def _device(kind: Any, index: Any = None) -> str:
    return str(scalar(kind)) if index is None else f"{scalar(kind)}:{scalar(index)}"


_BUILDERS: dict[str, Callable[..., Any]] = {
    "__builtin__.bytes": _bytes,
    "_codecs.encode": _bytes,
    "argparse.Namespace": lambda: {},
    "collections.OrderedDict": _ordered_dict,
    "numpy.dtype": _numpy_dtype,
    "torch.Size": lambda sizes=(): tuple(_sequence(sizes)),
    "torch.device": _device,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    # NumPy 2 renamed the module.
    "numpy.core.multiarray._reconstruct": lambda *_: np.empty(0),
    "numpy._core.multiarray._reconstruct": lambda *_: np.empty(0),
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
}


def pickle_contents(contents: Any) -> tuple[bytes, list[np.ndarray]]:
    """Returns the pickle of ``contents`` and the arrays that it names by their index."""
    arrays: list[np.ndarray] = []
    parts = list(_emit(contents, "", arrays))
    return b"".join([pickle.PROTO, b"\2", *parts, pickle.STOP]), arrays


def _emit(value: Any, place: str, arrays: list[np.ndarray]) -> Iterator[bytes]:
    """Yields the pickle of ``value`` and appends its arrays to ``arrays``."""
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
        case np.ndarray() if value.dtype.newbyteorder("=") in _STORAGE_OF:
            yield from _emit_tensor(value, arrays)
        case _:
            kind = f"{type(value).__name__} {getattr(value, 'dtype', '')}".strip()
            raise UserError(f"cannot write contents{place} ({kind}); convert it to a NumPy array")


def _emit_tensor(array: np.ndarray, arrays: list[np.ndarray]) -> Iterator[bytes]:
    """Yields the calls that rebuild a contiguous tensor with a storage of its own."""
    strides = tuple(math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim))
    storage = _STORAGE_OF[array.dtype.newbyteorder("=")]
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
