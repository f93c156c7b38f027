"""One process alone, and what is wrong with the flags; several are in tests/training."""

import jax
import pytest

from vitdeblur_jax.distributed.processes import (
    end_with_others,
    first_before_others,
    gather,
    is_first,
    join_others,
    split_across_processes,
    tells_of_a_loss,
    together,
)
from vitdeblur_jax.utils.errors import UserError


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (("host:1", None, None), "--processes and --process missing: "),
        ((None, 2, None), "--coordinator and --process missing"),
        (("host:1", None, 0), "--processes missing"),
        (("host", 2, 0), "--coordinator is 'host'; it must be HOST:PORT"),
        (("host:http", 2, 0), "it must be HOST:PORT"),
        (("host:1", 2, 2), "--process is 2; it must be from 0 to --processes - 1, which is 1"),
        (("host:1", 0, 0), "--processes is 0; it must be 1 or more"),
    ],
)
def test_flags_that_do_not_fit_together_are_told(place, message):
    with pytest.raises(UserError, match=message):
        join_others(*place)


def test_one_process_is_alone_whatever_the_cluster_says(monkeypatch):
    slurm = ("JOB_ID", "STEP_NODELIST", "NTASKS", "PROCID", "LOCALID", "STEP_NUM_NODES")
    for name in slurm:
        monkeypatch.setenv(f"SLURM_{name}", "1")
    join_others(count=1)
    assert is_first()


def test_alone_nothing_waits_for_anyone():
    assert gather({"psnr": 0.1}) == [{"psnr": 0.1}]
    assert split_across_processes(range(5)) == range(5)
    assert first_before_others(lambda: 3) == 3
    with pytest.raises(UserError, match="mine"), together():
        raise UserError("mine")
    assert end_with_others(lambda: 2) == 2
    with pytest.raises(ZeroDivisionError):
        end_with_others(lambda: 1 // 0)


def _caused(error, cause):
    error.__cause__ = cause
    return error


class _JaxRuntimeError(RuntimeError):
    """As JAX's, whose status cannot be set from Python."""

    def __init__(self, status, message):
        super().__init__(message)
        self.error_code_string = status


@pytest.mark.parametrize(
    ("error", "is_loss"),
    [
        # As JAX 0.10 raised them on a CPU when the other process was killed.
        (
            ValueError(
                "UNKNOWN: Gloo AllGather failed: [external/gloo/gloo/transport/tcp/pair.cc:538] "
                "Read error [127.0.0.1]:48277: Connection reset by peer"
            ),
            True,
        ),
        (_JaxRuntimeError("DEADLINE_EXCEEDED", "Barrier timed out. Id: b::0."), True),
        (_JaxRuntimeError("UNAVAILABLE", "the task went away"), True),
        (RuntimeError("UNAVAILABLE:/job:jax_worker/task:1"), True),
        (
            _JaxRuntimeError(
                "INTERNAL", "INTERNAL: NCCL operation x failed: remote process exited or there was"
            ),
            True,
        ),
        (_JaxRuntimeError("INTERNAL", "INTERNAL: NCCL operation x failed: invalid usage"), False),
        (_JaxRuntimeError("RESOURCE_EXHAUSTED", "no room for the connection's peer"), False),
        (_JaxRuntimeError("INVALID_ARGUMENT", "INVALID_ARGUMENT: barrier unavailable"), False),
        (ValueError("peer unavailable: the connection to the heartbeat barrier"), False),
        (
            ValueError(
                "INTERNAL: Barrier failed because: task is set to ERROR: UNAVAILABLE: Task 1 "
                "heartbeat timeout."
            ),
            True,
        ),
        (RuntimeError("Gloo AllReduce failed, says a model of that name"), False),
        (TimeoutError("Timed out while waiting for async_commit_complete barrier."), True),
        (ConnectionResetError(104, "Connection reset by peer"), True),
        (_caused(RuntimeError("not saved"), ConnectionResetError(104, "reset")), True),
        (RuntimeError("/home/me/peer/run/7: a shape is wrong"), False),
        (FileNotFoundError(2, "No such file", "peer_review"), False),
        (TimeoutError(110, "Connection timed out", "UNAVAILABLE: a file"), False),
        (UserError("UNAVAILABLE: no such folder"), False),
    ],
)
def test_a_lost_process_is_told_by_the_status_of_the_error(monkeypatch, error, is_loss):
    monkeypatch.setattr("vitdeblur_jax.distributed.processes.is_multiprocess", lambda: True)
    assert tells_of_a_loss(error) == is_loss
    monkeypatch.setattr("vitdeblur_jax.distributed.processes.is_multiprocess", lambda: False)
    assert not tells_of_a_loss(error)


def test_jax_gives_its_errors_a_status():
    """What `tells_of_a_loss` reads."""
    with pytest.raises(jax.errors.JaxRuntimeError) as raised:
        jax.numpy.zeros(1 << 50, jax.numpy.int8)
    assert raised.value.error_code_string == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shares_are_a_partition_in_order(monkeypatch, count):
    shares = []
    for index in range(count):
        monkeypatch.setattr(
            "vitdeblur_jax.distributed.processes.place", lambda index=index: (index, count)
        )
        shares.append(split_across_processes(list(range(5))))
    assert [item for items in shares for item in items] == list(range(5))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert shares[0]  # process 0 draws validation images
