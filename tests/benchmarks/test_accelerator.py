"""The accelerator benchmark: its processes, its timing, and the page of its results."""

import itertools
import json
import time
from pathlib import Path

import pytest

from benchmarks import accelerator_models
from benchmarks.accelerator import PARTS, Part, measure, run_part
from benchmarks.accelerator_models import median_seconds
from benchmarks.accelerator_tables import markdown

MODULE = "tests.benchmarks.made_up_parts"
DEVICE = [
    {"case": "device", "value": "1 x a chip"},
    {"case": "matrix product, float32", "numerics": "float32", "flops": 8e12, "seconds": 2},
]
OURS = {"case": "float32, batch 2", "numerics": "float32", "count": 2, "seconds": 4, "flops": 4e12}
THEIRS = {"case": "float32, batch 2", "numerics": "float32", "count": 2}


def test_a_part_that_fails_leaves_its_rows_and_the_other_parts(tmp_path):
    parts = tuple(Part(name, MODULE, 100) for name in ("killed", "raising", "complete"))
    measure((*parts, Part("hanging", MODULE, 0)), tmp_path, small=True)
    found = json.loads((tmp_path / "accelerator.json").read_text())["parts"]
    assert [part["rows"] for part in found.values()] == [
        [{"case": "before", "value": 1}],
        [{"case": "before", "value": 1}],
        [{"case": "small", "value": True}],
        [],
    ]
    reasons = [part["failed"] for part in found.values()]
    assert reasons[0] == ["ended by SIGKILL; SIGKILL can mean that memory ran out"]
    assert reasons[1:3] == [["ValueError: no such device and more"], []]
    assert reasons[3][0].startswith("stopped after")
    shown = (tmp_path / "accelerator.md").read_text()
    assert "| raising | ValueError: no such device and more |" in shown


def test_a_part_is_killed_at_its_limit_with_the_processes_that_it_started(tmp_path):
    found = run_part(Part("hanging", MODULE, 0), True, tmp_path, limit=1)
    assert found["failed"] == ["stopped after 1 s"]
    assert found["seconds"] < 30
    for row in found["rows"]:  # none, on a slow machine
        assert not _is_running(row["value"])


def _is_running(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return False
        if state == "Z":  # killed, and nobody has asked for its status
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize(("each", "calls"), [(0.2, 1), (0.01, 5), (0.0001, 100)])
def test_the_median_is_of_single_calls_and_leaves_out_the_first(monkeypatch, each, calls):
    clock, made = itertools.count(1), []
    now = [0.0]
    durations = {1: 60.0, 2: each}  # the first call compiles

    def work():
        made.append(next(clock))
        slow = 5.0 if len(made) == 3 else 0.0  # once
        now[0] += durations.get(len(made), each) + slow
        return len(made)

    monkeypatch.setattr(accelerator_models.time, "perf_counter", lambda: now[0])
    assert median_seconds(work, lambda _: None, seconds=0) == pytest.approx(each)
    assert len(made) == 2 + 5 * calls


def test_the_page_compares_both_sides_with_the_limit_and_lists_what_failed():
    pytorch = [
        {**THEIRS, "side": "PyTorch eager", "seconds": 8},
        {**THEIRS, "side": "PyTorch compiled", "error": "RuntimeError: no memory"},
    ]
    step = {"case": "kept", "numerics": "float32", "count": 1, "flops": 1e12, "seconds": 0.5}
    parts = {
        "device": DEVICE,
        "windows": [OURS],
        "pytorch_windows": pytorch,
        "training": [{**step, "memory": 3e9}],
        "pytorch_training": [{**step, "side": "PyTorch eager", "seconds": 0.25, "memory": 6e9}],
        "parity": [{"case": "decoder", "numerics": "float32", "difference": 2e-4}],
        "run": [{"case": "train, step 50", "loss": 0.25}],
    }
    rows = {name: {"rows": part, "failed": [], "seconds": 1} for name, part in parts.items()}
    page = markdown({"date": "2026-01-01", "small": False, "parts": rows})
    lines = page.splitlines()
    # 2 windows in 4 s against 2 in 8 s; 1 TFLOP/s of 4 TFLOP/s.
    assert "| float32, batch 2 | 0.5 | 0.25 | failed | 2 | 25 % |" in lines
    assert "| kept | 2 | 4 | - | 0.5 | 50 % | 3 | 6 | - |" in lines
    assert "| float32 | 4 | - |" in lines
    assert "float32: 2.0e-04 at most, NOT within 1e-04." in lines
    assert "| train, step 50 | 0.25 |" in lines
    failed = "pytorch_windows: PyTorch compiled, float32, batch 2"
    assert f"| {failed} | RuntimeError: no memory |" in lines
    assert "rehearsal" not in page


@pytest.mark.slow
def test_a_rehearsal_of_every_part(tmp_path):
    ours = tuple(p._replace(until=1200) for p in PARTS if not p.name.startswith("pytorch"))
    result = measure(ours, tmp_path, small=True)
    assert {name: part["failed"] for name, part in result["parts"].items()} == {
        part.name: [] for part in ours
    }
    rows = {name: part["rows"] for name, part in result["parts"].items()}
    assert not any("error" in row for part in rows.values() for row in part)
    assert [row["case"] for row in rows["windows"]] == ["bfloat16, batch 1", "bfloat16, batch 2"]
    assert len(rows["photograph"]) == len(rows["training"]) == len(rows["run"]) == 2
    assert rows["parity"][0]["difference"] < 1e-4
    page = (tmp_path / "accelerator.md").read_text()
    assert "these figures mean nothing" in page
    assert "No figures" not in page
