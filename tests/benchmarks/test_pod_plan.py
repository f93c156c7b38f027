"""The plan of a pod: its arithmetic by hand, its mistakes, and the program as a whole."""

import importlib.util
import re
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from benchmarks.chips import Chip
from benchmarks.collectives import Traffic
from benchmarks.pod_plan import largest_that_fits, topology
from benchmarks.step_plan import Plan, least_seconds, traffic_by_rule
from tests.forked import Ended, run_program
from vitdeblur_jax.utils.errors import UserError

ROOT = Path(__file__).parents[2]
SMALL = f"--config={ROOT / 'tests/training/small_run.py'}:small"


@pytest.mark.parametrize("largest", [0, 1, 7, 8, 9, 21])
def test_the_largest_batch_is_found(largest):
    tried = []

    def fits(size):
        tried.append(size)
        return size <= largest

    assert largest_that_fits(fits, 8) == (largest, len(tried))
    assert len(set(tried)) == len(tried) <= 7


def test_least_seconds_by_hand():
    limits = Chip({"bfloat16": 100.0, "highest": 10.0}, 0, 8.0, 4.0, 2.0)
    plan = Plan(
        flops=Counter(bfloat16=600, highest=20),
        state=0,
        memory={},
        moved=24,
        traffic={("all-gather", 4): Traffic(1, 6.0), ("all-reduce", 2): Traffic(3, 2.0)},
        network=7.0,
    )
    assert least_seconds(plan, limits, chips=4) == {
        "arithmetic": 2.0,
        "links": 2.0,
        "memory": 3.0,
        "network": 3.5,
    }
    alone = plan._replace(moved=None, network=0.0)
    assert set(least_seconds(alone, limits, chips=4)) == {"arithmetic", "links"}


def test_traffic_by_rule_by_hand():
    def array(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    params = {"frozen": array(512, 16), "kernel": array(256, 32), "bias": array(32)}
    trained = {"kernel": params["kernel"], "bias": params["bias"]}
    assert traffic_by_rule(params, trained, data=2, fsdp=4) == {
        ("all-gather", 4): Traffic(2, 4 * 2 * 8192 * 3 / 4),
        ("reduce-scatter", 4): Traffic(1, 4 * 8192 * 3 / 4),
        ("all-reduce", 2): Traffic(1, 2 * 4 * 8192 / 4 / 2),
        ("all-reduce", 8): Traffic(1, 2 * 4 * 32 * 7 / 8),
    }
    assert traffic_by_rule(params, trained, data=8, fsdp=1) == {
        ("all-reduce", 8): Traffic(2, 2 * 4 * (8192 + 32) * 7 / 8)
    }
    assert traffic_by_rule(params, trained, data=1, fsdp=1) == {}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5x:2x2", "unknown chip 'v5x'.*v5e"),
        ("gpu:8xH10", "unknown chip 'H10'.*H100"),
        ("gpu:H100", "gpu:8xH100"),
        ("gpu:9xH100", "a multiple of it"),
        ("v5e:3by3", "--topology v5e:3by3: "),
    ],
)
def test_a_topology_that_cannot_be_is_told(name, message):
    with pytest.raises(UserError, match=message):
        topology(name)


def run(*arguments: str) -> Ended:
    return run_program(["-m", "benchmarks.pod_plan", *arguments], ROOT)


def test_the_plan_of_machines_with_gpus():
    done = run(SMALL, "--topology=gpu:16xH100", "--fsdp=8", "--batch-per-chip=4")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for line in ("data 2 x fsdp 8 chips", "batch 4 per chip, 64 total", "unknown without"):
        assert line in done.stdout
    assert re.search(r"^reduce-scatter +8 ", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^network ", done.stdout, re.MULTILINE), done.stdout


def test_a_mistake_is_told_in_one_line():
    done = run(SMALL, "--topology=gpu:8xH100", "--fsdp=3")
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch("error: .*mesh.fsdp 3 do not fit 8 devices[^\n]*\n", done.stderr)


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="needs the compiler for TPUs")
def test_the_small_model_is_compiled_for_a_slice():
    done = run(SMALL, "--topology=v5e:2x2", "--fsdp=2", "--batch-per-chip=2")
    assert done.returncode == 0, done.stderr
    for row in ("temporaries", "all-reduce", "least time"):
        assert re.search(f"^{row} ", done.stdout, re.MULTILINE), done.stdout
