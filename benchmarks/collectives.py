"""Traffic between devices in a compiled program, read from its HLO text.

The model is a ring of the n devices of a group. To gather or to scatter, each device sends
(n - 1) / n of the whole array; an all-reduce sends twice that; a permutation sends all data of a
device. Other algorithms do not send less. A collective in a loop counts once per iteration, or once
if the compiler does not state the trip count.

Programs for TPUs have two special forms. A reduce-scatter is a fusion of an all-reduce with the
slice that a device keeps. An asynchronous collective appears again in each fusion that continues
it; only its start counts.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) (?:\(.*\) -> .*)?\{$")
_COLLECTIVE = re.compile(rf" = (.*?) ({'|'.join(KINDS)})(-start)?\(")
_CALLED = re.compile(r"\b(calls|to_apply|body|branch_computations)=\{?([^,}]*(?:, %[^,}]*)*)")
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")


class Traffic(NamedTuple):
    """Traffic of one kind of collective, in groups of one size, per run of the program.

    Attributes:
      times: Number of collectives that a device takes part in.
      sent: Bytes that a device sends in all of them.
    """

    times: int
    sent: float


def collectives(module: str) -> dict[tuple[str, int], Traffic]:
    """Returns the traffic in `compiled.as_text()`, by kind and group size."""
    computations, entry = _computations(module)
    devices = int((re.search(r"num_partitions=(\d+)", module) or ["", "1"])[1])
    found = defaultdict(lambda: Traffic(0, 0.0))
    for name, line, times in _executed(computations, entry, 1):
        match = _COLLECTIVE.search(line)
        if match and not _carries_on(name, computations[name]):
            kind, whole = match[2], _bytes(match[1], is_start=bool(match[3]))
            group = _group_size(line, devices)
            if name.startswith("all-reduce-scatter"):
                kind = "reduce-scatter"
            elif kind == "reduce-scatter":
                whole *= group
            before = found[kind, group]
            sent = before.sent + times * _sent(kind, whole, group)
            found[kind, group] = Traffic(before.times + times, sent)
    return dict(found)


def _computations(module: str) -> tuple[dict[str, list[str]], str]:
    """Returns the lines of each computation by its name, and the name of the entry computation."""
    computations, lines, entry = {}, [], ""
    for line in module.splitlines():
        match = _COMPUTATION.match(line)
        if match:
            lines = computations[match[2]] = []
            entry = match[2] if match[1] else entry
        else:
            lines.append(line)
    return computations, entry


def _executed(computations, name: str, times: int) -> Iterator[tuple[str, str, int]]:
    """Yields each line that a computation executes: its computation, the line, its run count."""
    for line in computations.get(name, ()):
        yield name, line, times
        if re.search(r"-(done|update)\(", line):
            continue  # repeats the computation that its start calls
        turns = _TURNS.search(line)
        for attribute, names in _CALLED.findall(line):
            inside = times * int(turns[1]) if turns and attribute == "body" else times
            for called in names.split(","):
                yield from _executed(computations, called.strip().lstrip("%"), inside)


def _carries_on(name: str, lines: list[str]) -> bool:
    """Returns whether a computation continues an asynchronous collective of another one."""
    ends = any('custom_call_target="AsyncCollectiveDone"' in line for line in lines)
    return ends or name.startswith("async_collective_fusion")


def _group_size(line: str, devices: int) -> int:
    """Returns the number of devices in a group, for each notation of groups in HLO text."""
    written = re.search(r"replica_groups=(.*?)(?=, [a-z_]+=(?!\()|$)", line)
    groups = written[1] if written else "{}"
    if groups == "{}":
        return devices
    if listed := re.match(r"\{\{([\d,]+)\}", groups):
        return len(listed[1].split(","))
    if counted := re.match(r"\[\d+,(\d+)\]<=", groups):
        return int(counted[1])
    if mesh := re.match(r"mesh\[(.*?)\].*\{(.*)\}", groups):
        sizes = dict(re.findall(r"('\w+')=(\d+)", mesh[1]))
        axes = re.findall(r"('\w+')(?::\(\d+\)(\d+))?", mesh[2])  # a part of an axis has a size
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    raise ValueError(f"unknown notation of groups: {groups}")


def _bytes(result: str, is_start: bool) -> int:
    """Returns the bytes of a collective's result; a start lists its operands before the results."""
    arrays = [
        math.prod(int(length) for length in shape.split(",") if length) * int(bits or 8) // 8
        for _, bits, shape in _ARRAY.findall(result)
        if shape or not is_start  # the scalars of a start are flags
    ]
    return sum(arrays[len(arrays) // 2 :] if is_start and len(arrays) > 1 else arrays)


def _sent(kind: str, whole: int, group: int) -> float:
    if kind == "collective-permute":
        return whole
    return (2 if kind == "all-reduce" else 1) * whole * (group - 1) / group
