"""Several processes that compute as one: how they find each other, agree, and end together.

A program that was started alone is a program of one process; nothing below then waits for anyone.
"""

import contextlib
import json
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from vitdeblur_jax.utils.errors import (
    CANNOT,
    CHECKED_AND_WRONG,
    INTERRUPTED,
    LOST_OTHERS,
    UserError,
    one_line,
)
from vitdeblur_jax.utils.output import drop_what_cannot_be_written, tell, tell_traceback

SECONDS_TO_GATHER = 120
_SECONDS_WITHOUT_HEARTBEAT = 20  # until a process counts as dead
_SECONDS_TO_END = 30

# Statuses of the coordination service's and the network's own errors.
_STATUSES_OF_LOSS = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "CANCELLED")

# What collectives say of a connection, under statuses that they give other errors too.
_FAILED_COLLECTIVE = re.compile(
    r"\bGloo \S+ failed|external/gloo/"
    r"|\bNCCL\b.*(remote process exited|network error|unhandled system error)",
    re.IGNORECASE | re.DOTALL,
)

# What JAX says without a cluster, and where it has computed already: then nothing has started us.
_SIGNS_OF_BEING_ALONE = ("coordinator_address should be defined", "must be called before")


def join_others(
    coordinator: str | None = None, count: int | None = None, index: int | None = None
) -> None:
    """Joins the processes that were started together with this one. To be called before all else.

    Without arguments JAX looks whether Slurm, Open MPI, Kubernetes (with the package kubernetes) or
    Cloud TPU has started this process with others. If none has, it is alone.

    Args:
      coordinator: "host:port" where process 0 listens.
      count: how many processes there are; 1: alone, whatever JAX would find.
      index: of this one, from 0.

    Raises:
      UserError: the arguments do not fit together, or the cluster that was found cannot be joined.
        If after two minutes not all are there, the program ends with a line and status 75.
    """
    if count == 1 and coordinator is None and index in (None, 0):
        return
    given = {"coordinator": coordinator, "processes": count, "process": index}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise UserError(
            f"{' and '.join(missing)} missing: --coordinator=HOST:PORT, --processes=COUNT and "
            "--process=INDEX go together; leave all three out where a cluster starts the processes"
        )
    if not missing:
        _check_place(coordinator, count, index)
    with _ends_after(SECONDS_TO_GATHER, _nobody_came(**given)), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of clusters that could not be looked for
        try:
            jax.distributed.initialize(
                *(coordinator, count, index),
                cluster_detection_method=None if missing else "deactivate",
                # Longer than ours: in the end JAX aborts, with a stack trace.
                initialization_timeout=2 * SECONDS_TO_GATHER,
                heartbeat_timeout_seconds=_SECONDS_WITHOUT_HEARTBEAT,
                shutdown_timeout_seconds=_SECONDS_TO_END,
            )
        except (ValueError, RuntimeError, OSError, KeyError) as error:
            if not (missing and any(sign in str(error) for sign in _SIGNS_OF_BEING_ALONE)):
                raise _cannot_join(error) from error


def _check_place(coordinator, count, index):
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"--coordinator is {coordinator!r}; it is HOST:PORT, the same everywhere")
    if count < 1 or not 0 <= index < count:
        raise UserError(
            f"there is no process {index} of {count}: --process counts from 0 to --processes less 1"
        )


def _cannot_join(error):
    return UserError(
        f"this looks like one of several processes, but they cannot be joined ({one_line(error)}); "
        "give --coordinator, --processes and --process, or --processes=1 for this one alone"
    )


def _nobody_came(coordinator, processes, process):
    who, where = "this process", "the coordinator"
    if coordinator is not None:
        who, where = f"process {process} of {processes}", f"the coordinator {coordinator}"
    return (
        f"{who}: not all came together at {where} within {SECONDS_TO_GATHER} s; see to it that all "
        "are started, with the same address and count, and that the port is open"
    )


@contextlib.contextmanager
def _ends_after(seconds: int, message: str) -> Iterator[None]:
    def end():
        tell(f"error: {message}")
        leave(LOST_OTHERS)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def is_multiprocess() -> bool:
    """Returns whether there are other processes than this one."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def place() -> tuple[int, int]:
    """Returns which process this is, from 0, and how many there are."""
    return (jax.process_index(), jax.process_count()) if is_multiprocess() else (0, 1)


def is_first() -> bool:
    """Returns whether this is process 0, which writes what is written once."""
    return place()[0] == 0


def split_across_processes(items: Sequence) -> Sequence:
    """Returns this process's part of the items, some in a row; the parts differ by one at most."""
    index, count = place()
    bounds = [len(items) * part // count for part in (index, index + 1)]
    return items[slice(*bounds)]


def gather(value: Any) -> list:
    """Returns the values of all processes, in their order; each has to call it.

    Args:
      value: whatever JSON keeps.
    """
    if not is_multiprocess():
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(len(text), np.int32))
    padded = np.pad(text, (0, int(lengths.max()) - len(text)))
    texts = multihost_utils.process_allgather(padded)
    return [
        json.loads(text[:length].tobytes()) for text, length in zip(texts, lengths, strict=True)
    ]


@contextlib.contextmanager
def together() -> Iterator[None]:
    """What may fail in one process: after the block, it has failed in all or in none.

    Raises:
      UserError: that of this process, or one that names those whose it was.
    """
    failure = None
    try:
        yield
    except UserError as error:
        failure = error
    failed = [index for index, said in enumerate(gather(failure is not None)) if said]
    if failure is not None:
        raise failure
    if failed:
        names = ", ".join(map(str, failed))
        raise UserError(f"process {names} cannot go on and says why; so this one ends, too")


def first_before_others(work: Callable[[], Any]) -> Any:
    """Returns what `work` returns, after process 0 has done it, and only then the others.

    Raises:
      UserError: as `together`.
    """
    with together():
        value = work() if is_first() else None
    with together():
        return value if is_first() else work()


def end_with_others(work: Callable[[], int]) -> int:
    """Returns the exit status of `work`; of several processes a failure ends the others soon.

    The others wait for this process in the next thing that they do together. When it has gone
    without a word to them, they notice at once, or after 20 seconds without a sign of life, and end
    with status 75.
    """
    try:
        status = work()
    except Exception as error:
        if not is_multiprocess():
            raise
        leave(_told(error))
    if status in (CANNOT, INTERRUPTED) and is_multiprocess():
        leave(status)
    return status


def tells_of_a_loss(error: BaseException) -> bool:
    """Returns whether an error is what JAX raises in one process when another has gone.

    The status tells: `JaxRuntimeError` has it as an attribute; some calls, as `np.asarray` of an
    array that a collective computes, raise ValueError or RuntimeError with the status at the
    beginning of the message.
    """
    return is_multiprocess() and _is_a_loss(error)


def _is_a_loss(error):
    if isinstance(error, UserError) or getattr(error, "filename", None) is not None:
        return False
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    status = getattr(error, "error_code_string", None)
    if status in (None, "UNKNOWN"):
        written = re.match(r"([A-Z_]+):", str(error))
        status = written and written[1]
    if status in _STATUSES_OF_LOSS or (status and _FAILED_COLLECTIVE.search(str(error))):
        return True
    return error.__cause__ is not None and _is_a_loss(error.__cause__)


def _told(error) -> int:
    if tells_of_a_loss(error):
        tell(
            f"error: process {place()[0]} of {place()[1]} has lost another "
            f"({one_line(error)}); started again, the same command goes on"
        )
        return LOST_OTHERS
    tell_traceback(error)
    return CHECKED_AND_WRONG


def leave(status: int) -> None:
    """Ends the process at once: what waits at a usual end would wait for the others."""
    drop_what_cannot_be_written()
    os._exit(status)
