"""Reads the pickles in the files of `torch.save` as plain data.

A pickle is a program for a stack machine. Python's machine lets the program call any installed
function. The machine here never holds a function or a class: a global is only its name, and only
the names in `BUILDERS` can be called, which are functions that build plain data.
"""

import pickletools
from collections.abc import Callable
from io import BufferedIOBase
from typing import Any

import numpy as np

from vitdeblur_jax.checkpoints.pickle_values import (
    ADVICE,
    BUILDERS,
    ITEM_SIZE,
    LARGEST_KEY,
    STORAGE_OF,
    STORAGES,
    Budget,
    Storage,
    checked_keys,
    kind_of,
    scalar,
    sequence,
    with_state,
)
from vitdeblur_jax.utils.errors import UserError

_NAMES = {"numpy.ndarray", *STORAGES, *(f"torch.{dtype}" for dtype in STORAGE_OF)}
# The opcodes that push their argument: a number, text or bytes.
_LITERALS = {
    opcode.name
    for opcode in pickletools.opcodes
    if opcode.arg and opcode.stack_after and opcode.stack_after[0] is not pickletools.anyobject
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
# What an opcode pops: everything above the last mark, or a number of values.
_TAKES_MARKED = {"TUPLE", "APPENDS", "SETITEMS"}
_TAKES = {
    **dict.fromkeys(("TUPLE1", "APPEND", "BUILD", "BINPERSID"), 1),
    **dict.fromkeys(("TUPLE2", "SETITEM", "STACK_GLOBAL", "REDUCE", "NEWOBJ"), 2),
    "TUPLE3": 3,
}
_OPCODES_AT_ONCE = 256


def parse_identity(identity: Any) -> tuple[str, np.dtype, int]:
    """Returns the key, dtype and number of bytes of a storage from its persistent id."""
    match identity:
        case ("storage", str(kind), str(key), str(), int(count), *view) if view in ([], [None]):
            if count >= 0:
                return key, STORAGES[kind], count * STORAGES[kind].itemsize
    raise ValueError("the persistent id of a storage is not supported")


def _no_storage(identity: Any) -> Storage:
    raise ValueError("a persistent id where none is expected")


def unpickle(
    stream: BufferedIOBase, budget: Budget, storage: Callable[[Any], Storage] = _no_storage
) -> Any:
    """Reads a pickle.

    Args:
      stream: The pickle.
      budget: The memory that it may use.
      storage: Returns the storage for a persistent id.

    Returns:
      The object.

    Raises:
      UserError: The pickle holds something other than data, or exceeds the budget.
    """
    stack, outer, memo = [], [], {}
    for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if number % _OPCODES_AT_ONCE == 0:
            budget.spend(_OPCODES_AT_ONCE * ITEM_SIZE)
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
                index = len(memo) if argument is None else argument
                if not 0 <= index < LARGEST_KEY:
                    raise ValueError(f"the index {index} is out of range")
                memo[index] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_allowed(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                stack.append(_allowed(*map(scalar, items)))
            case "REDUCE" | "NEWOBJ":
                name, arguments = items
                stack.append(BUILDERS[scalar(name)](budget, *sequence(arguments)))
            case "BUILD":
                stack[-1] = with_state(budget, stack[-1], *items)
            case "BINPERSID":
                stack.append(storage(*items))
            case name:
                named = name if argument is None else f"{name} {argument!r:.80}"
                raise UserError(f"holds more than data ({named}), which was not executed; {ADVICE}")


def _allowed(module: Any, name: Any) -> str:
    full = f"{module}.{name}"
    if full not in _NAMES and full not in BUILDERS:
        raise UserError(f"holds {full[:80]!r}, which is not data and was not executed; {ADVICE}")
    return full


def _extend(target: Any, items: list[Any]) -> None:
    if isinstance(target, dict):
        target.update(zip(checked_keys(items[::2]), items[1::2], strict=True))
    elif isinstance(target, list):
        target.extend(items)
    else:
        raise TypeError(f"items for a {kind_of(target)}")
