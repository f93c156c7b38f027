"""Mutations of files, and a watch over what reading them does to the process."""

import contextlib
import copy
import io
import json
import os
import re
import signal
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
_VALUES = (None, True, -1, 0, 2**70, 1e400, float("nan"), 0.5, "", "x", "\x1b[2J\n", [], {}, [[]])
_FORBIDDEN = (
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty"),
    *("subprocess.Popen", "socket.connect", "socket.bind", "webbrowser.open", "ctypes.dlopen"),
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "shutil.rmtree"),
    "pickle.find_class",
)


def mutated(data: bytes, rng: np.random.Generator, others: Sequence[bytes]) -> bytes:
    """Returns `data` after one to three random mutations.

    Args:
      data: Content of a file.
      rng: Source of all random choices.
      others: Files whose ends may replace the end of `data`.
    """
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        mutation = _MUTATIONS[rng.integers(len(_MUTATIONS))]
        data = bytes(mutation(bytearray(data), rng, others))
    return data


def mutated_json(value: Any, rng: np.random.Generator) -> Any:
    """Returns a copy of a JSON value in which one node has another value, or is gone."""
    value = copy.deepcopy(value)
    node, key = None, None
    inner = value
    while isinstance(inner, dict | list) and len(inner) and (node is None or rng.random() < 0.8):
        node = inner
        key = (
            list(node)[rng.integers(len(node))]
            if isinstance(node, dict)
            else rng.integers(len(node))
        )
        inner = node[key]
    if node is None:
        return value
    if rng.random() < 0.2:
        del node[key]
    else:
        node[key] = copy.deepcopy(_VALUES[rng.integers(len(_VALUES))])
    return value


def mutated_json_text(data: bytes, rng: np.random.Generator, others: Sequence[bytes]) -> bytes:
    """Returns a JSON text with a changed node, changed bytes, or a hundred thousand brackets."""
    kind = rng.integers(10)
    if kind == 0:
        return (b"[" if rng.random() < 0.5 else b'{"a":') * 100_000
    if kind < 4:
        return mutated(data, rng, others)
    return json.dumps(mutated_json(json.loads(data), rng)).encode()


def mutated_checkpoint(data: bytes, rng: np.random.Generator, others: Sequence[bytes]) -> bytes:
    """Returns a checkpoint mutated behind its checksums: inside of an archive, or in the header."""
    if rng.random() < 0.3:
        return mutated(data, rng, others)
    if data.startswith(b"PK"):
        return _with_mutated_entry(data, rng)
    length = int.from_bytes(data[:8], "little")
    if 8 + length < len(data) and data[8:9] == b"{":  # safetensors
        header = json.dumps(mutated_json(json.loads(data[8 : 8 + length]), rng)).encode()
        return len(header).to_bytes(8, "little") + header + data[8 + length :]
    return mutated(data, rng, others)


def _with_mutated_entry(data, rng):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    programs = [name for name in entries if name.endswith(".pkl")]
    names = programs if programs and rng.random() < 0.8 else list(entries)
    name = names[rng.integers(len(names))]
    entries[name] = mutated(entries[name], rng, list(entries.values()))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@contextlib.contextmanager
def watched(seconds: float = 20, megabytes: float = 400) -> Iterator[None]:
    """Fails if the block hangs, takes much memory, runs a program, or changes a file.

    Args:
      seconds: Time after which the block counts as hung.
      megabytes: Bound on the growth of resident memory, where the system tells it (Linux).
    """
    before = _resident_megabytes(reset_peak=True)
    previous = signal.signal(signal.SIGALRM, _hung)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    _WATCH.start()
    try:
        yield
    finally:
        events = _WATCH.stop()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert not events, f"reading did more than read: {events[:3]}"
    grown = _resident_megabytes() - before
    assert grown < megabytes, f"reading took {grown:.0f} MB"


def read_or_refused(read: Callable[[], Any], refusal: type[Exception]) -> bool:
    """Returns whether `read` gave a result; an exception other than `refusal` is a failure."""
    try:
        read()
    except refusal as error:
        message = str(error)
        assert len(message) < 2000, f"a message of {len(message)} characters: {message[:200]}"
        assert not _OF_A_PROGRAMMER.search(message), f"a message for programmers: {message}"
        return False
    return True


_OF_A_PROGRAMMER = re.compile(
    r"NoneType|not supported between|unsupported operand|indices|has no attribute|codec can't|"
    r"not subscriptable|not iterable|object is not|__\w+__|unpack"
)


class _Watch:
    """Collects the audit events of forbidden actions. An audit hook cannot be removed."""

    def __init__(self):
        self._events: list | None = None
        self._is_hooked = False

    def start(self) -> None:
        if not self._is_hooked:
            sys.addaudithook(self._note)
            self._is_hooked = True
        self._events = []

    def stop(self) -> list:
        events, self._events = self._events, None
        return events

    def _note(self, event, arguments):
        if self._events is None:
            return
        writes = event == "open" and arguments[2] & _WRITING
        writes = writes and arguments[0] != _TEMPORARY  # the folder: its file has no name
        if writes or event.startswith(_FORBIDDEN):
            self._events.append((event, str(arguments)[:200]))


_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_TEMPORARY = tempfile.gettempdir()
_WATCH = _Watch()


class _HungError(BaseException):
    """No `Exception`: readers turn those into refusals."""


def _hung(*_):
    raise _HungError("reading hangs")


def _resident_megabytes(reset_peak: bool = False) -> float:
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    if reset_peak:
        Path("/proc/self/clear_refs").write_text("5")
    return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) / 1024


def _flip_bits(data, rng, _):
    for at in _places(data, rng, 8):
        data[at] ^= 1 << rng.integers(8)
    return data


def _set_bytes(data, rng, _):
    for at in _places(data, rng, 4):
        data[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
    return data


def _set_integer(data, rng, _):
    size = int(rng.choice([1, 2, 4, 8]))
    value = _EXTREMES[rng.integers(len(_EXTREMES))] % 256**size
    at = int(rng.integers(max(1, len(data))))
    data[at : at + size] = value.to_bytes(size, rng.choice(["little", "big"]))
    return data


def _truncate(data, rng, _):
    return data[: rng.integers(len(data) + 1)]


def _cut(data, rng, _):
    start, end = _slice(data, rng)
    del data[start:end]
    return data


def _repeat(data, rng, _):
    start, end = _slice(data, rng)
    data[start:start] = data[start:end] * int(rng.integers(1, 5))
    return data


def _zero(data, rng, _):
    start, end = _slice(data, rng)
    data[start:end] = bytes(end - start)
    return data


def _insert(data, rng, _):
    at = rng.integers(len(data) + 1)
    data[at:at] = rng.bytes(int(rng.integers(1, 40)))
    return data


def _swap_slices(data, rng, _):
    start, end = _slice(data, rng)
    other, _ = _slice(data, rng)
    part = data[start:end]
    data[other : other + len(part)] = part
    return data


def _splice(data, rng, others):
    other = others[rng.integers(len(others))]
    return data[: rng.integers(len(data) + 1)] + other[rng.integers(len(other) + 1) :]


_MUTATIONS = (
    *(_flip_bits, _set_bytes, _set_integer, _set_integer, _truncate),
    *(_cut, _repeat, _zero, _insert, _swap_slices, _splice),
)


def _places(data, rng, most):
    return rng.integers(len(data), size=rng.integers(1, most + 1)) if data else ()


def _slice(data, rng):
    start = int(rng.integers(len(data) + 1))
    return start, min(len(data), start + int(rng.integers(1, 200)))
