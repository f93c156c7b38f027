"""Distributed processes: how they connect, exchange values, and exit together.

In a single process, the functions below communicate with nobody.
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
_SECONDS_WITHOUT_HEARTBEAT = 20  # then a process is considered dead
_SECONDS_TO_END = 30

# Statuses of errors of the coordination service and the network.
_STATUSES_OF_LOSS = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "CANCELLED")

# Messages of collectives that lost a connection; their statuses also occur with other errors.
_FAILED_COLLECTIVE = re.compile(
    r"\bGloo \S+ failed|external/gloo/|\bBarrier failed because: task is set to ERROR"
    r"|\bNCCL\b.*(remote process exited|network error|unhandled system error)",
    re.IGNORECASE | re.DOTALL,
)

# JAX's errors when it finds no cluster, or is initialized already: this is a single process.
_SINGLE_PROCESS_ERRORS = ("coordinator_address should be defined", "must be called before")


def join_others(
    coordinator: str | None = None, count: int | None = None, index: int | None = None
) -> None:
    """Connects this process with the others of the run. Call it before any computation.

    Without arguments, JAX detects Slurm, Open MPI, Kubernetes (with the package kubernetes) and
    Cloud TPU. If it detects none of them, this is a single process.

    If the processes do not all connect within two minutes, the program prints one line and exits
    with status 75.

    Args:
      coordinator: "host:port" where process 0 listens.
      count: Number of processes; 1: a single process, without detection.
      index: Index of this process, from 0.

    Raises:
      UserError: The arguments are inconsistent, or the detected cluster cannot be joined.
    """
    if count == 1 and coordinator is None and index in (None, 0):
        return
    given = {"coordinator": coordinator, "processes": count, "process": index}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise UserError(
            f"{' and '.join(missing)} missing: set --coordinator=HOST:PORT, --processes=COUNT and "
            "--process=INDEX together, or none of them if a cluster starts the processes"
        )
    if not missing:
        _check_place(coordinator, count, index)
    with _ends_after(SECONDS_TO_GATHER, _nobody_came(**given)), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about clusters that JAX could not detect
        try:
            jax.distributed.initialize(
                *(coordinator, count, index),
                cluster_detection_method=None if missing else "deactivate",
                # Longer than our timeout, because JAX's aborts with a stack trace.
                initialization_timeout=2 * SECONDS_TO_GATHER,
                heartbeat_timeout_seconds=_SECONDS_WITHOUT_HEARTBEAT,
                shutdown_timeout_seconds=_SECONDS_TO_END,
            )
        except (ValueError, RuntimeError, OSError, KeyError) as error:
            if not (missing and any(sign in str(error) for sign in _SINGLE_PROCESS_ERRORS)):
                raise _cannot_join(error) from error


def _check_place(coordinator, count, index):
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(
            f"--coordinator is {coordinator!r}; it must be HOST:PORT, the same for all processes"
        )
    if count < 1:
        raise UserError(f"--processes is {count}; it must be 1 or more")
    if not 0 <= index < count:
        raise UserError(
            f"--process is {index}; it must be from 0 to --processes - 1, which is {count - 1}"
        )


def _cannot_join(error):
    return UserError(
        f"a cluster was detected, but its processes cannot be joined ({one_line(error)}); set "
        "--coordinator, --processes and --process, or --processes=1 for a single process"
    )


def _nobody_came(coordinator, processes, process):
    who, where = "this process", "the coordinator"
    if coordinator is not None:
        who, where = f"process {process} of {processes}", f"the coordinator {coordinator}"
    return (
        f"{who}: not all processes connected to {where} within {SECONDS_TO_GATHER} s; check that "
        "all are started with the same address and count, and that the port is open"
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
    """Returns whether the run has several processes."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def place() -> tuple[int, int]:
    """Returns the index of this process, from 0, and the number of processes."""
    return (jax.process_index(), jax.process_count()) if is_multiprocess() else (0, 1)


def is_first() -> bool:
    """Returns whether this is process 0, which writes the files of the run."""
    return place()[0] == 0


def split_across_processes(items: Sequence) -> Sequence:
    """Returns this process's contiguous part of the items; part lengths differ by at most 1.

    With fewer items than processes, process 0 has one.
    """
    index, count = place()
    bounds = [-(-len(items) * part // count) for part in (index, index + 1)]
    return items[slice(*bounds)]


def gather(value: Any) -> list:
    """Returns the values of all processes, by process index. All processes must call it.

    Args:
      value: This process's value, which JSON can hold.
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
    """Makes a block fail in all processes if it fails in one. All processes must run it.

    Raises:
      UserError: The error of this process, or one that names the processes that failed.
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
        raise UserError(f"stopped because of the error that process {names} reports")


def first_before_others(work: Callable[[], Any]) -> Any:
    """Returns the result of `work`, which process 0 calls first, then the others.

    Raises:
      UserError: See `together`.
    """
    with together():
        value = work() if is_first() else None
    with together():
        return value if is_first() else work()


def end_with_others(work: Callable[[], int]) -> int:
    """Returns the exit status of `work`. Exits at once if it fails in one of several processes.

    The other processes wait for this one in their next collective. If it dies, they detect it
    within 20 s and exit with status 75.
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
    """Returns whether JAX raised this error because another process died.

    The status decides. `JaxRuntimeError` has it as an attribute. Some calls, such as `np.asarray`
    of the result of a collective, raise a ValueError or RuntimeError whose message begins with it.
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
            f"error: process {place()[0]} of {place()[1]} lost the connection to another process "
            f"({one_line(error)}); run the same command to resume"
        )
        return LOST_OTHERS
    tell_traceback(error)
    return CHECKED_AND_WRONG


def leave(status: int) -> None:
    """Exits at once, without exit handlers, which would wait for the other processes."""
    drop_what_cannot_be_written()
    os._exit(status)
