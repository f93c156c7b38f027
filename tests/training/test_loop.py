"""The loop: what is stopped and gone on with is the run in one go, and what ends a run is told."""

import functools
import gzip
import json
import math
import os
import re
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from configs.evaluate import get_config as evaluation_config
from tests.small_model import small_pretrained, write_deep_checkpoint
from tests.training.same_run import assert_same_run, last_state, lines
from tests.training.small_run import (
    after_step,
    images,
    prepare_once,
    quick_config,
    small_config,
    stand_in_objective,
    train_py,
)
from tests.training.test_data import batches
from vitdeblur_jax import load_pretrained, save_pretrained
from vitdeblur_jax.checkpoints.orbax_folders import read_psnr, step_folders
from vitdeblur_jax.data.prefetch import DeviceBatches
from vitdeblur_jax.distributed.sharding import local_mesh
from vitdeblur_jax.evaluation import evaluate
from vitdeblur_jax.models.networks import create_network
from vitdeblur_jax.training import loop, preparation, train
from vitdeblur_jax.training.data import TrainingData
from vitdeblur_jax.training.log import TrainingLog
from vitdeblur_jax.utils.errors import UserError

COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture(scope="module")
def small(pairs):
    """The config of a run that is validated at its end, of everything."""
    validation = {"every": 20, "root": str(pairs / "val"), "num_logged_images": 1}
    return small_config(pairs, **{f"validation__{key}": value for key, value in validation.items()})


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    """Its workdir, trained in one go."""
    workdir = tmp_path_factory.mktemp("finished")
    assert train(small, workdir) == 0
    return workdir


@pytest.fixture(scope="module")
def quick_finished(pairs, tmp_path_factory):
    """The workdir of `quick_config`, trained in one go."""
    workdir = tmp_path_factory.mktemp("quick")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, "weighted_objective", stand_in_objective)
        assert train(quick_config(pairs), workdir) == 0
    return workdir


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(preparation, "weighted_objective", stand_in_objective)


def send(number, _):
    os.kill(os.getpid(), number)


def test_a_run_leaves_all_that_tells_of_it(small, finished):
    assert [record["step"] for record in lines(finished, "train")] == [4, 8, 12, 16, 20]
    losses = [record["loss"] for record in lines(finished, "train")]
    assert losses[-1] < 0.9 * losses[0]
    rates = [record["learning_rate"] for record in lines(finished, "train")]
    assert rates[0] == pytest.approx(1e-3 * (1 + np.cos(3 / 20 * np.pi)) / 2)
    assert rates[-1] == pytest.approx(1e-3 * (1 + np.cos(19 / 20 * np.pi)) / 2, rel=1e-5)
    assert {record["skipped"] for record in lines(finished, "train")} == {0}
    assert json.loads((finished / "config.json").read_text())["num_steps"] == small.num_steps
    assert "jax" in json.loads((finished / "versions.json").read_text())
    table = (finished / "parameters.txt").read_text()
    assert re.search(r"^image_head/input_convolution/bias +5 +5 +- +20 +yes$", table, re.MULTILINE)
    # VICReg's weights are 0, so that nothing reaches the projector.
    assert re.search(r"^contextual_encoder/projector/hidden\S* .*\d$", table, re.MULTILINE)
    assert list((finished / "tensorboard").iterdir())
    (logged,) = (finished / "validation_images").iterdir()
    with Image.open(logged) as panels:
        assert (panels.width - 12) % 4 == 0  # four, with gaps of four pixels
    assert logged.stem in {path.stem for path in Path(small.validation.root).rglob("*.png")}


def test_a_complete_run_says_what_can_be_done_with_it(
    pairs, quick_finished, tmp_path, capfd, stand_in
):
    config = quick_config(pairs, afterwards=("now: go out", "and play"))
    workdir = shutil.copytree(quick_finished, tmp_path / "run")
    assert train(config, workdir) == 0
    *_, restores, first, second = capfd.readouterr().err.splitlines()
    assert restores == f"to restore an image: vitdeblur IMAGE --checkpoint {workdir}"
    assert [first, second] == ["now: go out", "and play"]


def test_strides_that_repeat_the_token_grid_are_noted(pairs, tmp_path, capfd, stand_in):
    config = quick_config(pairs, num_steps=1, optimizer__warmup_steps=0, validation__every=0)
    config.tiling.stride = 28
    config.validation.stride = 32
    train(config, tmp_path)
    said = capfd.readouterr().err
    assert "note: stride 28 is a multiple of 4" in said
    assert "note: stride 32 is a multiple of 4" in said


def test_an_objective_does_not_ignore_a_loss_schedule(pairs, tmp_path):
    config = quick_config(pairs, loss_schedule=((5, (("mse", 1.0),)),))
    with pytest.raises(UserError, match=r"an objective of your own .*; set loss_schedule to \(\)"):
        train(config, tmp_path / "RUN", objective=lambda *_: None)
    assert not (tmp_path / "RUN").exists()


def test_another_objective_can_be_trained_with(pairs, tmp_path, stand_in):
    def doubled(model, variables, blurred, sharp, rng):
        usual = stand_in_objective(model, {}, variables, blurred, sharp, rng, border=0)
        return usual._replace(loss=2 * usual.loss, terms={"twice": 2 * usual.loss})

    config = quick_config(pairs, num_steps=1, log_every=1, optimizer__warmup_steps=0)
    assert train(config, tmp_path, doubled) == 0
    (batch,) = batches(TrainingData(config), 0, 1)
    blurred, sharp = batch["blurred"] / 255, batch["sharp"] / 255
    (logged,) = lines(tmp_path, "train")
    expected = 2 * np.mean((blurred - sharp) ** 2)  # the first tint is 0
    assert logged["loss"] == logged["twice"] == pytest.approx(expected, rel=1e-5)
    assert "charbonnier" not in logged


def test_stopped_and_gone_on_with_it_is_the_same_run(small, finished, tmp_path, monkeypatch, capfd):
    with monkeypatch.context() as patch:
        # Between two lines of the log: what the steps since the last one measured is saved, too.
        patch.setattr(
            TrainingLog, "advance", after_step(11, functools.partial(send, signal.SIGTERM))
        )
        assert train(small, tmp_path) == 143
    assert list(step_folders(tmp_path / "checkpoints")) == [10, 11]
    told = capfd.readouterr().err
    assert "SIGTERM: saving after this step, then exiting" in told
    assert "saved at step 11; run the same command to resume" in told
    assert train(small, tmp_path) == 0
    assert_same_run(tmp_path, finished, small)


def interrupted_in_validation(pairs, workdir, monkeypatch):
    """Starts a run that a signal ends in the validation of step 15; returns its config."""

    def interrupted(*arguments, on_tiles, **settings):
        os.kill(os.getpid(), signal.SIGINT)
        on_tiles(1)

    config = quick_config(pairs, validation__every=15, validation__root=str(pairs / "val"))
    with monkeypatch.context() as patch:
        patch.setattr(loop, "validate_sets", interrupted)
        assert train(config, workdir) == 130
    return config


def test_a_validation_that_was_interrupted_is_made_up_for(pairs, tmp_path, monkeypatch, stand_in):
    config = interrupted_in_validation(pairs, tmp_path, monkeypatch)
    assert list(step_folders(tmp_path / "checkpoints")) == [10, 15]
    assert lines(tmp_path, "validation") == []
    assert train(config, tmp_path) == 0
    measured = lines(tmp_path, "validation")
    assert [record["step"] for record in measured] == [15, 20]
    folder = step_folders(tmp_path / "checkpoints")[15]
    assert read_psnr(folder) == measured[0]["psnr"]
    assert [record["step"] for record in lines(tmp_path, "train")] == [4, 8, 12, 16, 20]


def test_a_kill_before_the_psnr_is_written_does_not_lose_it(pairs, tmp_path, monkeypatch, stand_in):
    def killed(*arguments, **settings):
        raise KeyboardInterrupt

    config = interrupted_in_validation(pairs, tmp_path, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(loop.TrainingCheckpoints, "add_psnr", killed)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path)
    (logged,) = lines(tmp_path, "validation")
    assert logged["step"] == 15
    assert train(config, tmp_path) == 0
    assert read_psnr(step_folders(tmp_path / "checkpoints")[15]) == logged["psnr"]
    assert [record["step"] for record in lines(tmp_path, "validation")] == [15, 20]


def test_a_complete_run_restarts_whatever_its_log_says_of_the_psnr(
    pairs, tmp_path, monkeypatch, stand_in
):
    measured = math.nan
    monkeypatch.setattr(loop, "validate_sets", lambda *_, **__: ({"psnr": measured}, {}, measured))
    config = quick_config(pairs, num_steps=4, validation__every=4)
    config.validation.root = str(pairs / "val")
    for _ in range(2):
        assert train(config, tmp_path) == 0
    assert [record["psnr"] for record in lines(tmp_path, "validation")] == [None]
    log, measured = tmp_path / "log.jsonl", 20.0
    log.write_text(log.read_text().replace('"psnr"', '"another_set/psnr"'))
    assert train(config, tmp_path) == 0
    assert [record.get("psnr") for record in lines(tmp_path, "validation")] == [None, 20.0]
    assert read_psnr(tmp_path / "checkpoints/4") == 20


def test_validation_is_what_evaluate_measures(pairs, finished, tmp_path):
    config = evaluation_config("pairs")
    config.update(checkpoint=str(finished), data_dir=str(pairs / "val"))
    evaluate(config, tmp_path)
    methods = json.loads((tmp_path / "metrics.json").read_text())["methods"]
    measured = {method["name"]: method["mean"] for method in methods}
    (logged,) = lines(finished, "validation")
    for name in ("psnr", "ssim", "mae"):
        np.testing.assert_allclose(logged[name], measured["output"][name], rtol=1e-9)
        np.testing.assert_allclose(logged[f"input_{name}"], measured["input"][name], rtol=1e-9)
    assert logged["psnr_gain"] == logged["psnr"] - logged["input_psnr"]


def test_a_run_that_is_complete_stays_as_it_is(small, finished, capfd):
    before = (finished / "log.jsonl").read_text()
    assert train(small, finished) == 0
    assert (finished / "log.jsonl").read_text() == before
    told = f"in another --workdir with --config.initial.checkpoint={finished}\n"
    assert told in capfd.readouterr().err
    assert list(step_folders(finished / "checkpoints")) == [10, 20]


def test_what_is_trained_is_validated_averaged(small, finished):
    state, _ = last_state(finished, small)
    stored = load_pretrained(finished)
    assert stored.source == str(finished / "checkpoints/20")
    assert stored.config.model == small.model
    jax.tree.map(np.testing.assert_array_equal, stored.variables, state.ema_variables)
    bias = ("image_head", "output_convolution", "bias")
    raw, averaged = (
        functools.reduce(lambda tree, key: tree[key], bias, params)
        for params in (state.params, stored.variables["params"])
    )
    assert not np.array_equal(raw, averaged)


def test_another_config_is_refused_but_for_its_free_keys(pairs, finished):
    keys = {"validation__every": 20, "validation__root": str(pairs / "val")}
    with pytest.raises(
        UserError, match=r"another config \(num_steps: 20 -> 21\); choose .*--config\.initial\.ch"
    ):
        train(small_config(pairs, **keys, num_steps=21), finished)
    free = {"log_every": 3, "save_every": 7, "data__workers": 2, "max_nonfinite_steps": 1}
    free |= {"validation__num_logged_images": 0}
    assert train(small_config(pairs, **keys, **free), finished) == 0


def test_a_run_is_trained_longer_where_its_schedule_allows_it(pairs, tmp_path, capfd, stand_in):
    config = quick_config(pairs, num_steps=10, optimizer__schedule="constant")
    assert train(config, tmp_path / "in_one_go") == 0
    config.num_steps = 7
    assert train(config, tmp_path / "longer") == 0
    capfd.readouterr()
    assert train(config, tmp_path / "longer") == 0
    told = capfd.readouterr().err
    assert "\nthis run is complete: all 7 steps are done; raise num_steps to train longer\n" in told
    config.num_steps = 10
    assert train(config, tmp_path / "longer") == 0
    assert "\nresuming at step 7 of 10\n" in capfd.readouterr().err
    longer, once = (last_state(tmp_path / name, config) for name in ("longer", "in_one_go"))
    jax.tree.map(np.testing.assert_array_equal, longer, once)
    config.num_steps = 9
    with pytest.raises(UserError, match=r"num_steps is 9, but the run in .* is already at step 10"):
        train(config, tmp_path / "longer")
    assert json.loads((tmp_path / "longer/config.json").read_text())["num_steps"] == 10


def test_a_run_resumes_where_its_data_has_moved_and_with_no_other_data(tmp_path, stand_in):
    first = images(tmp_path / "first", count=5)
    changes = {"num_steps": 4, "optimizer__schedule": "constant"}
    assert train(quick_config(first, **changes), tmp_path / "run") == 0
    moved = first.rename(tmp_path / "moved")
    changes["num_steps"] = 5
    for relative in (moved, Path(os.path.relpath(moved))):
        assert train(quick_config(f"{relative}/", **changes), tmp_path / "run") == 0
    changes["num_steps"] = 6
    kept = {path: path.read_bytes() for path in moved.rglob("photo4.png")}
    for path in kept:
        path.unlink()
    with pytest.raises(UserError, match=r"moved is not the data .* has 4 training examples, not 5"):
        train(quick_config(moved, **changes), tmp_path / "run")
    for path, data in kept.items():
        path.with_name("photo9.png").write_bytes(data)
    with pytest.raises(UserError, match=r"moved is not the data .* has different files"):
        train(quick_config(moved, **changes), tmp_path / "run")


@pytest.mark.slow
def test_killed_and_gone_on_with_it_is_the_same_run(pairs, small, finished, tmp_path):
    flags = [
        f"data.root={pairs}",
        *(f"validation.{key}={small.validation[key]}" for key in ("every", "root")),
        f"validation.num_logged_images={small.validation.num_logged_images}",
    ]
    killed = train_py(tmp_path, "small,SIGKILL,13", *flags, "data.workers=1")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert max(step_folders(tmp_path / "checkpoints")) == 10
    assert lines(tmp_path, "train")[-1]["step"] == 12
    done = train_py(tmp_path, "small", *flags, "data.workers=2")
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path, finished, small)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_to_train_py_and_its_workers(
    pairs, quick_finished, tmp_path, monkeypatch, stand_in, number
):
    ended = train_py(tmp_path, f"quick,{number.name},7", f"data.root={pairs}", "data.workers=1")
    assert ended.returncode == 128 + number, ended.stderr
    _, _, compiling, step_4, *rest = [line for line in ended.stderr.splitlines() if line]
    assert compiling == "compiling the training step for 4 crops of 46 x 46 pixels"
    assert step_4.startswith("step 4 of 20: loss ")
    assert rest == [
        f"{number.name}: saving after this step, then exiting; Ctrl-C exits without saving",
        "saved at step 7; run the same command to resume",
    ]
    assert list(step_folders(tmp_path / "checkpoints")) == [7]
    assert train(quick_config(pairs), tmp_path) == 0
    assert_same_run(tmp_path, quick_finished, quick_config(pairs))


def test_a_signal_that_ends_a_starting_worker_too(
    pairs, quick_finished, tmp_path, monkeypatch, stand_in
):
    def fail(batches):
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("Worker process was terminated unexpectedly")

    with monkeypatch.context() as patch:
        patch.setattr(DeviceBatches, "__next__", fail)
        assert train(quick_config(pairs), tmp_path) == 143
    assert train(quick_config(pairs), tmp_path) == 0
    assert_same_run(tmp_path, quick_finished, quick_config(pairs))


def test_a_second_process_in_the_same_workdir_is_refused(pairs, tmp_path, monkeypatch, stand_in):
    second = []

    def start(workdir):
        second.append(train_py(workdir, "quick", f"data.root={pairs}"))

    monkeypatch.setattr(TrainingLog, "advance", after_step(3, start))
    config = quick_config(pairs, num_steps=4, optimizer__schedule="constant")
    assert train(config, tmp_path) == 0
    (refused,) = second
    assert refused.returncode == 2
    assert refused.stdout == ""
    pairs_line, error = refused.stderr.splitlines()
    assert "paired by name" in pairs_line
    assert error.startswith(f"error: the workdir {tmp_path} is in use by process {os.getpid()} on ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], r"checkpoints in .*: step 20 cannot be written.*too large"),
        (["profile=(14,15)"], r"the profile in .* cannot be written .*too large"),
    ],
)
def test_a_disk_that_refuses_ends_train_py_in_one_line(
    pairs, quick_finished, tmp_path, stand_in, flags, message
):
    ended = train_py(tmp_path, "quick,full,13", f"data.root={pairs}", *flags)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    _paired, _size, _compiling, *lines = ended.stderr.splitlines()
    (error,) = [line for line in lines if not line.startswith("step ")]
    assert re.match(f"error: {message}", error)
    assert list(step_folders(tmp_path / "checkpoints")) == [10]
    assert train(quick_config(pairs), tmp_path) == 0
    assert_same_run(tmp_path, quick_finished, quick_config(pairs))


@pytest.mark.slow
def test_two_devices_train_from_a_checkpoint_folder(pairs, tmp_path):
    """Its arrays are restored onto one device."""
    save_pretrained(small_pretrained(), tmp_path / "start")
    start = f"initial.checkpoint={tmp_path / 'start'}", "initial.identity_init=False"
    flags = (f"data.root={pairs}", *start, "data.workers=0")
    two = "--xla_force_host_platform_device_count=2"
    done = train_py(tmp_path / "run", "quick", *flags, XLA_FLAGS=two)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run/versions.json").read_text())["devices"] == 2
    resumed = train_py(tmp_path / "run", "quick", *flags)
    assert resumed.returncode == 0, resumed.stderr


def test_a_batch_that_does_not_divide_the_devices_is_told_before_compiling(pairs, tmp_path):
    ended = train_py(
        tmp_path / "run",
        "quick",
        f"data.root={pairs}",
        XLA_FLAGS="--xla_force_host_platform_device_count=3",
        JAX_LOG_COMPILES="1",
    )
    assert ended.returncode == 2
    message = "error: a batch of 4 in 1 part[^\n]* over 3 devices; make batch_size a multiple of 3"
    assert re.fullmatch(message + "\n", ended.stderr), ended.stderr
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def compilations():
    """The durations of what is compiled from now on."""
    durations = []

    def note(event, duration, **_):
        if event == COMPILED:
            durations.append(duration)

    jax.monitoring.register_event_duration_secs_listener(note)
    return durations


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__root": "nowhere"}, "nowhere is not a folder"),
        ({"data__root": "empty"}, "no folder source or input"),
        (
            {"initial__checkpoint": "other.safetensors"},
            "its model.primary_encoder.depth is 2, and yours is 1; its model.primary_encoder.width",
        ),
        ({"initial__checkpoint": "deep.safetensors"}, "contextual_encoder.depth is 3000"),
        ({"initial__checkpoint": "nowhere"}, "there is no checkpoint 'nowhere'"),
        ({"initial__encoder": "nowhere.pth"}, "there is no file 'nowhere.pth' with pretrained"),
        ({"initial__encoder": "other.safetensors"}, "does not fit"),
        ({"crop": 54}, "crop is 54 pixels, but .* has 60 x 52; choose a smaller crop"),
        ({"optimizer__name": "adamv"}, r"optimizer\.name is 'adamv' .did you mean 'adamw'"),
        ({"optimizer__schedule": "linear"}, r"optimizer\.schedule is 'linear'; it must be one of"),
        ({"data__kind": "pair"}, "data.kind is 'pair' .did you mean 'pairs'"),
        (
            {"model__views": 2, "data__quarter_turns": False},
            r"photo0 has 1 view, but the network takes 2",
        ),
        ({"data__hold_out": 24}, r"data\.hold_out is 24, .* none remain"),
        ({"validation__every": 5}, "the validation data is the training data"),
        ({"validation__every": 5, "validation__stride": 99}, "stride is 99"),
        ({"progressive": ((5, 47, 4),)}, "crop 47 with patch_size 8"),
    ],
)
def test_bad_input_is_told_before_anything_is_compiled(
    pairs, tmp_path, monkeypatch, compilations, changes, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write_deep_checkpoint(tmp_path / "deep.safetensors")
    if "other.safetensors" in changes.values():
        other = {"primary_encoder__width": 64, "primary_encoder__depth": 2, "decoder__depth": 2}
        save_pretrained(small_pretrained(**other), tmp_path / "other.safetensors")
    config = quick_config(pairs, **changes)
    compilations.clear()
    with pytest.raises(UserError, match=message) as told:
        train(config, tmp_path / "run")
    assert "\n" not in str(told.value)
    assert compilations == []
    assert not (tmp_path / "run").exists()


def test_compilations_are_noted(compilations):
    before = len(compilations)
    jax.jit(lambda x: 3 * x)(np.ones(7))
    assert len(compilations) == before + 1


@pytest.fixture
def with_a_white_one(pairs, tmp_path):
    """Pairs, the loss of one of which is not finite; the steps that it comes at; their config."""
    root = images(tmp_path / "pairs", count=16)
    for folder, level in (("blurred", 99), ("sharp", 255)):
        white = Image.fromarray(np.full((52, 60, 3), level, np.uint8))
        white.save(root / folder / "white.png")
    config = quick_config(root)
    data = TrainingData(config)
    steps = [n + 1 for n in range(20) if "white" in " ".join(data.names(n))]
    assert 1 < steps[0] < 8
    assert len(steps) > 3
    return config, steps


@pytest.mark.parametrize("saved", [True, False])
def test_what_is_not_finite_is_told(with_a_white_one, tmp_path, stand_in, saved):
    config, (bad, *_) = with_a_white_one
    config.save_every = config.log_every = bad - 1 if saved else 20
    with pytest.raises(UserError) as told:
        train(config, tmp_path / "run")
    kept = f"checkpoint {bad - 1} is kept" if saved else "no checkpoint was saved yet"
    assert str(told.value).startswith(
        f"step {bad}: charbonnier, loss not finite, in a batch with white (index 16); {kept}. "
    )
    if saved:
        state, _ = last_state(tmp_path / "run", config)
        assert int(state.step) == bad - 1
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state))


def test_what_is_not_finite_can_be_skipped_and_is_counted(with_a_white_one, tmp_path, stand_in):
    config, bad = with_a_white_one
    config.update(log_every=1, max_nonfinite_steps=2)
    with pytest.raises(UserError, match=f"^step {bad[2]}: "):
        train(config, tmp_path / "run")
    config.max_nonfinite_steps = len(bad)
    assert train(config, tmp_path / "run") == 0
    state, _ = last_state(tmp_path / "run", config)
    assert (int(state.step), int(state.skipped)) == (20, len(bad))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state))
    records = lines(tmp_path / "run", "train")
    assert [record["skipped"] for record in records] == [
        sum(step <= record["step"] for step in bad) for record in records
    ]
    assert [record["step"] for record in records if "loss" not in record] == bad
    made = [record for record in records if "loss" in record]
    schedule = prepare_once(config, create_network(config), local_mesh()).schedule
    assert [record["learning_rate"] for record in made] == [
        float(schedule(number)) for number in range(len(made))
    ]


def test_stages_follow_each_other_and_each_is_traced_once(pairs, tmp_path, monkeypatch):
    traced, seen = [], []

    def counted(model, weights, variables, blurred, sharp, rng, **settings):
        traced.append(blurred.shape[:2])
        return stand_in_objective(model, weights, variables, blurred, sharp, rng, **settings)

    def spying(config, network, mesh, objective):
        run = prepare_once(config, network, mesh, objective)

        def train_step(state, batch):
            seen.append((*batch["blurred"].shape[:2], jax.device_get(batch["index"]).tolist()))
            return run.train_step(state, batch)

        return run._replace(train_step=train_step)

    monkeypatch.setattr(preparation, "weighted_objective", counted)
    monkeypatch.setattr(loop, "prepare", spying)
    stages = {"num_steps": 8, "progressive": ((3, 50, 2), (6, 46, 6))}
    config = quick_config(pairs, **stages)
    with monkeypatch.context() as patch:
        patch.setattr(TrainingLog, "advance", after_step(4, functools.partial(send, signal.SIGINT)))
        assert train(config, tmp_path / "run") == 130
    assert traced == [(4, 46), (2, 50)]
    assert train(config, tmp_path / "run") == 0
    assert traced == [(4, 46), (2, 50), (6, 46)]
    assert [size for *size, _ in seen] == [[4, 46]] * 3 + [[2, 50]] * 3 + [[6, 46]] * 2
    taken = [record for *_, records in seen for record in records]
    one_by_one = TrainingData(quick_config(pairs, batch_size=1, num_steps=99))
    order = [one_by_one.names(step)[0] for step in range(len(taken))]
    assert [f"photo{record} (index {record})" for record in taken] == order
    assert train(config, tmp_path / "in_one_go") == 0
    assert_same_run(tmp_path / "run", tmp_path / "in_one_go", config)
    assert len(traced) == 3


def test_nothing_goes_to_the_device_unasked(pairs, tmp_path, monkeypatch, stand_in):
    place = DeviceBatches.__next__
    monkeypatch.setattr(DeviceBatches, "__next__", lambda self: jax.device_get(place(self)))
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        train(quick_config(pairs), tmp_path)


def test_an_objective_may_compute_constants_while_it_is_traced(pairs, tmp_path):
    def halved(model, variables, blurred, sharp, rng):
        with jax.ensure_compile_time_eval():
            half = jax.numpy.asarray(np.ones(2, np.float32)).mean() / 2
        usual = stand_in_objective(model, {}, variables, blurred, sharp, rng, border=0)
        return usual._replace(loss=half * usual.loss)

    config = quick_config(pairs, num_steps=2, optimizer__warmup_steps=0)
    assert train(config, tmp_path, halved) == 0


def _steps_in_profile(workdir):
    (trace,) = (workdir / "profile").rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    calls = [event for event in events if event.get("name") == "PjitFunction(sharded_train_step)"]
    steps, end = 0, -1.0
    for call in sorted(calls, key=lambda event: event["ts"]):
        if call["ts"] > end:  # else it lies inside of the one before
            steps, end = steps + 1, call["ts"] + call["dur"]
    return steps


def test_the_chosen_steps_are_profiled(pairs, tmp_path, monkeypatch, stand_in):
    short = {"num_steps": 6, "optimizer__schedule": "constant"}
    assert train(quick_config(pairs, **short, profile=(3, 5)), tmp_path / "whole") == 0
    assert _steps_in_profile(tmp_path / "whole") == 3
    monkeypatch.setattr(
        TrainingLog, "advance", after_step(5, functools.partial(send, signal.SIGINT))
    )
    short["num_steps"] = 10
    assert train(quick_config(pairs, **short, profile=(3, 9)), tmp_path / "part") == 130
    assert _steps_in_profile(tmp_path / "part") == 2
