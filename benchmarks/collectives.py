"""What the devices send each other in a compiled program, read from its text.

A collective is taken to go round a ring of the n devices of a group: to gather or to scatter, each
sends (n - 1) / n of the whole; to sum up, that twice; a permutation sends all that a device holds.
Other ways of doing it do not send less. What lies in a loop counts as often as the loop turns, once
where the compiler has not written how often that is.

A program for TPUs has two ways of its own. To sum up and scatter is a fusion of an all-reduce with
the slice that a device keeps of it. And an asynchronous collective is written again in each fusion
that carries it on; it counts where it starts.
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
    """What one kind of collective, in groups of one size, does in a run of the program.

    Attributes:
      times: How often a device takes part in one.
      sent: Bytes that a device sends in all of them.
    """

    times: int
    sent: float


def collectives(module: str) -> dict[tuple[str, int], Traffic]:
    """Returns the traffic by kind and size of the groups, of `compiled.as_text()`."""
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
    """Returns the lines of each computation by its name, and the name of the first to run."""
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
    """Yields each line that runs from a computation on: where it stands, and how often it runs."""
    for line in computations.get(name, ()):
        yield name, line, times
        if re.search(r"-(done|update)\(", line):
            continue  # names again what its start has called
        turns = _TURNS.search(line)
        for attribute, names in _CALLED.findall(line):
            inside = times * int(turns[1]) if turns and attribute == "body" else times
            for called in names.split(","):
                yield from _executed(computations, called.strip().lstrip("%"), inside)


def _carries_on(name: str, lines: list[str]) -> bool:
    """Returns whether a computation goes on with an asynchronous collective of another one."""
    ends = any('custom_call_target="AsyncCollectiveDone"' in line for line in lines)
    return ends or name.startswith("async_collective_fusion")


def _group_size(line: str, devices: int) -> int:
    """Returns how many devices a group has, in each of the ways that XLA lists groups."""
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
    raise ValueError(f"unknown way to list groups: {groups}")


def _bytes(result: str, is_start: bool) -> int:
    """Returns the bytes of what a collective gives; a start also names its operands before."""
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
