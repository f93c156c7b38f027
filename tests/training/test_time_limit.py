"""Runs with a time limit: the schedule follows the clock, and the whole run ends in time."""

import json
from functools import partial

import numpy as np
import pytest

from tests.training.small_run import quick_config, small_config, stand_in_objective
from vitdeblur_jax.checkpoints.orbax_folders import read_psnr, step_folders
from vitdeblur_jax.training import loop, time_limit, train
from vitdeblur_jax.training.log import TrainingLog
from vitdeblur_jax.training.time_limit import TimeLimit
from vitdeblur_jax.utils.errors import UserError

PEAK, SHARE = 1e-3, 0.5


class Clock:
    def __init__(self):
        self.seconds = 1000.0

    def __call__(self):
        return self.seconds


def after(limit, clock, seconds):
    clock.seconds += seconds
    limit.tick()
    return limit.progress


def test_progress_is_the_share_of_the_time_without_that_for_the_end():
    clock = Clock()
    limit = TimeLimit(100, clock)
    assert limit
    assert after(limit, clock, 25) == 0.25
    with limit.closing():
        clock.seconds += 15
    assert after(limit, clock, 1) == 41 / (100 - 1.2 * 15)
    assert limit.seconds_left() == 59
    assert after(limit, clock, 50) == 1
    assert limit.seconds_left() == 9


def test_progress_never_falls():
    clock = Clock()
    limit = TimeLimit(100, clock)
    with limit.closing():
        clock.seconds += 40
    before = after(limit, clock, 6)
    with limit.closing():
        clock.seconds += 1
    assert before == 46 / 52
    assert after(limit, clock, 1) == before


def test_a_checkpoint_saved_in_the_first_closing_holds_its_time():
    clock = Clock()
    limit = TimeLimit(100, clock)
    with limit.closing():
        clock.seconds += 10
        state = limit.state()
        clock.seconds += 5
    resumed = TimeLimit(100, clock)
    resumed.resume(state)
    assert resumed.knows_closing()
    assert after(resumed, clock, 5) == 15 / (100 - 1.2 * 10)
    assert limit.state()["closing_s"] == 15


def test_a_validation_that_gets_too_slow_ends_the_run():
    clock = Clock()
    limit = TimeLimit(100, clock)
    after(limit, clock, 5)
    with limit.closing():
        clock.seconds += 90
    assert after(limit, clock, 0) == 1


def test_nothing_is_validated_shortly_before_the_end():
    clock = Clock()
    limit = TimeLimit(100, clock)
    with limit.closing():
        clock.seconds += 10  # so 88 seconds are for steps
    after(limit, clock, 58)
    assert limit.allows_closing()
    after(limit, clock, 1)
    assert not limit.allows_closing()


def test_a_limit_that_the_end_alone_exceeds_is_told():
    clock = Clock()
    limit = TimeLimit(10, clock)
    with limit.closing():
        clock.seconds += 9
    with pytest.raises(UserError, match=r"time_limit_s is 10, but the validation .* took 9 s"):
        limit.tick()


def test_without_a_limit_a_run_has_all_the_time():
    clock = Clock()
    limit = TimeLimit(0, clock)
    assert not limit
    assert after(limit, clock, 1e9) == 0
    assert limit.allows_closing()


def test_the_time_between_two_processes_does_not_count():
    clock = Clock()
    limit = TimeLimit(100, clock)
    with limit.closing():
        clock.seconds += 10
    after(limit, clock, 20)
    state = json.loads(json.dumps(limit.state()))
    clock.seconds += 3600
    resumed = TimeLimit(100, clock)
    resumed.resume(state)
    assert resumed.progress == limit.progress == 30 / 88
    assert resumed.elapsed_s == limit.elapsed_s == 30
    assert after(resumed, clock, 14) == 0.5


def test_the_clock_of_the_first_process_counts(monkeypatch):
    clock = Clock()
    limit = TimeLimit(100, clock)
    monkeypatch.setattr(time_limit, "gather", lambda own: [[40.0, 10.0], own])
    assert after(limit, clock, 30) == 40 / 88
    assert limit.elapsed_s == 40


@pytest.fixture
def clock(monkeypatch):
    """The clock of a run: a step takes one second, a validation six."""
    clock, advance = Clock(), TrainingLog.advance

    def advance_a_second(log, *arguments, **figures):
        clock.seconds += 1
        advance(log, *arguments, **figures)

    def validate_sets(*_, **__):
        clock.seconds += 6
        return {"psnr": 20.0}, {}, 20.0

    monkeypatch.setattr("vitdeblur_jax.training.preparation.weighted_objective", stand_in_objective)
    monkeypatch.setattr(TrainingLog, "advance", advance_a_second)
    monkeypatch.setattr(loop, "validate_sets", validate_sets)
    monkeypatch.setattr(loop, "TimeLimit", partial(TimeLimit, now=clock))
    return clock


class Killed(BaseException):
    """Ends a run at once, as SIGKILL does."""


def _kill(*_):
    raise Killed


def timed_config(pairs, make=quick_config, **changes):
    changes = {"validation__every": 4, "validation__root": str(pairs / "val"), **changes}
    config = make(pairs, num_steps=1000, log_every=1, save_every=1000, **changes)
    config.optimizer.update(learning_rate=PEAK, schedule="wsd", decay_share=SHARE, warmup_steps=2)
    return config


def logged(workdir, kind="train"):
    records = map(json.loads, (workdir / "log.jsonl").read_text().splitlines())
    return [record for record in records if record["kind"] == kind]


def rate(elapsed, limit):
    """The learning rate of a step, from the definition of the schedule."""
    progress = min(1, elapsed / (limit - 1.2 * 6))
    return PEAK * min(1, (1 - progress) / SHARE)


def test_the_decay_is_finished_at_the_limit(pairs, tmp_path, clock):
    assert train(timed_config(pairs, time_limit_s=30), tmp_path) == 0
    steps = logged(tmp_path)
    # Six seconds of validation before the first step and after the fourth.
    assert [step["elapsed_s"] for step in steps] == [*range(6, 10), *range(16, 24)]
    expected = [rate(step["elapsed_s"], 30) for step in steps]
    expected[0] /= 2  # warm-up
    np.testing.assert_allclose([step["learning_rate"] for step in steps], expected, atol=1e-9)
    assert steps[-1]["learning_rate"] == 0
    assert clock.seconds - 1000 <= 30
    assert [record["step"] for record in logged(tmp_path, "validation")] == [0, 4, 12]
    folders = step_folders(tmp_path / "checkpoints")
    assert max(folders) == 12
    assert read_psnr(folders[12]) == 20


def test_resumed_it_follows_the_same_schedule(pairs, tmp_path, clock, monkeypatch):
    # At step 6, there is time for fewer than two validations, so there is none, resumed or not.
    config = timed_config(pairs, time_limit_s=30, validation__every=6)
    train(config, tmp_path / "whole")
    in_parts, completed = tmp_path / "parts", []
    stop = loop.Preemption.check

    def stop_at_6(preemption):
        if (in_parts / "log.jsonl").exists() and len(logged(in_parts)) == 6:
            preemption.signal = 15
        stop(preemption)

    monkeypatch.setattr(loop.Preemption, "check", stop_at_6)
    monkeypatch.setattr(TrainingLog, "complete", lambda log: completed.append(log.folder))
    assert train(config, in_parts) == 128 + 15
    monkeypatch.setattr(loop.Preemption, "check", stop)
    assert completed == []
    clock.seconds += 3600
    assert train(config, in_parts) == 0
    keys = ("step", "elapsed_s", "learning_rate", "loss")
    whole, parts = (
        [[step[key] for key in keys] for step in logged(tmp_path / name)]
        for name in ("whole", "parts")
    )
    assert parts == whole
    assert len(whole) == 18
    assert completed == [in_parts]


def test_a_run_killed_before_its_second_checkpoint_validates_once(pairs, tmp_path, clock):
    config = timed_config(pairs, time_limit_s=30, validation__every=1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.TimeLimit.func, "tick", _kill)
        with pytest.raises(Killed):
            train(config, tmp_path)
    assert train(config, tmp_path) == 0
    steps, validations = (logged(tmp_path, kind) for kind in ("train", "validation"))
    assert [record["step"] for record in validations] == [0, steps[-1]["step"]]
    assert clock.seconds - 1000 <= 30


def test_a_run_that_is_over_stays_as_it_is(pairs, tmp_path, clock, capfd):
    config = timed_config(pairs, time_limit_s=20)
    train(config, tmp_path)
    steps = len(logged(tmp_path))
    capfd.readouterr()
    assert train(config, tmp_path) == 0
    assert f"this run is complete: all {steps} steps are done" in capfd.readouterr().err
    assert len(logged(tmp_path)) == steps


@pytest.mark.slow
def test_a_real_run_ends_in_time(pairs, tmp_path):
    config = timed_config(pairs, small_config, time_limit_s=600, validation__every=1000)
    config.num_steps = 2
    train(config, tmp_path / "compiles")
    with config.unlocked():
        config.update(num_steps=100_000, time_limit_s=20.0)
    assert train(config, tmp_path / "timed") == 0
    steps, validations = (logged(tmp_path / "timed", kind) for kind in ("train", "validation"))
    assert steps[-1]["learning_rate"] == 0
    assert steps[-1]["step"] == validations[-1]["step"]
    assert steps[-1]["step"] < 100_000
    assert steps[-1]["loss"] < steps[0]["loss"]
