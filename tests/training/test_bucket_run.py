"""Runs whose workdir is in a bucket are those on disk."""

import json
import signal

import jax
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import SessionLog

from configs.evaluate import get_config as evaluation_config
from tests.small_model import small_configuration
from tests.training.same_run import assert_same_run, lines
from tests.training.several_processes import end, restored, start
from tests.training.small_run import quick_config, small_config, stand_in_objective, train_py
from tests.training.test_checkpointing import (
    RESUME_STATE,
    abstract,
    assert_same_bits,
    state_of_step,
)
from tests.training.test_log import curves, events, trained
from tests.training.test_several_processes import train as arguments_of_train
from vitdeblur_jax import load_pretrained, save_pretrained
from vitdeblur_jax.checkpoints.orbax_folders import read_psnr, step_folders
from vitdeblur_jax.evaluation import evaluate
from vitdeblur_jax.training import event_file, preparation, train
from vitdeblur_jax.training.checkpointing import TrainingCheckpoints
from vitdeblur_jax.training.log import TrainingLog
from vitdeblur_jax.training.profiling import Profile
from vitdeblur_jax.utils.buckets import filesystem
from vitdeblur_jax.utils.errors import UserError


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(preparation, "weighted_objective", stand_in_objective)


def test_a_log_is_resumed(bucket):
    with TrainingLog(bucket / "run", 0, 50) as log:
        trained(log, 10, 20)
        assert [line["step"] for line in lines(bucket / "run", "train")] == [10, 20]
        log.validation(20, {"psnr": 20.0}, {})
        trained(log, 30)
    with TrainingLog(bucket / "run", 20, 50) as log:
        assert log.last("train")["step"] == 20
        trained(log, 30, 40)
    assert [line["step"] for line in lines(bucket / "run", "train")] == [10, 20, 30, 40]
    assert [line["step"] for line in lines(bucket / "run", "validation")] == [20]


def test_event_files_are_written_in_parts(bucket, monkeypatch, tmp_path):
    monkeypatch.setattr(event_file, "_LARGEST_PART", 500)
    with TrainingLog(bucket, 0, 50) as log:
        trained(log, *range(1, 11))
    parts = sorted((bucket / "tensorboard").iterdir())
    assert len(parts) > 2
    found = []
    for path in parts:
        (tmp_path / path.name).write_bytes(path.read_bytes())
        assert events(tmp_path / path.name)[0].file_version == "brain.Event:2"
        found += [step for step, tag, _ in curves(tmp_path / path.name) if tag == "train/loss"]
        starts = [event.session_log.status for event in events(tmp_path / path.name)]
        assert (SessionLog.START in starts) == (path == parts[0])
    assert found == list(range(1, 11))


def save(checkpoints, step, psnr=None):
    checkpoints.save(state_of_step(step), small_configuration().to_dict(), RESUME_STATE, psnr)


def test_checkpoints_come_back_bit_for_bit(bucket, capfd):
    folder = bucket / "run/checkpoints"
    with TrainingCheckpoints(folder, keep=1) as checkpoints:
        assert checkpoints.latest_step() is None
        for step, psnr in ((1, 30.0), (2, None), (3, 20.0)):
            save(checkpoints, step, psnr)
    assert list(step_folders(folder)) == [1, 3]  # the best and the last
    (folder / "4/variables").mkdir(parents=True)
    (folder / "4/variables/half").write_text("killed")
    assert list(step_folders(folder)) == [1, 3]
    with TrainingCheckpoints(folder, keep=1) as checkpoints:
        assert checkpoints.latest_step() == 3
        expected = state_of_step(3)
        state, resume_state = checkpoints.restore(3, abstract(expected))
        checkpoints.add_psnr(3, 40.0)
        save(checkpoints, 4)
    assert "checkpoint of step 4 was not complete and is removed" in capfd.readouterr().err
    assert_same_bits(state, expected)
    assert json.dumps(resume_state) == json.dumps(RESUME_STATE)
    assert list(step_folders(folder)) == [3, 4]
    assert read_psnr(folder / "3") == 40.0
    (folder / "4/training/manifest.ocdbt").write_bytes(b"damaged")
    with (
        TrainingCheckpoints(folder, keep=1) as checkpoints,
        pytest.raises(UserError, match=rf"step 4 cannot be read; .*delete {folder}/4, and the run"),
    ):
        checkpoints.restore(4, abstract(expected))


def test_a_profile_is_uploaded(bucket):
    profile = Profile(bucket / "profile", (0, 0))
    profile.before(0)
    profile.after(0, jax.numpy.zeros(3) + 1)
    assert [path.suffix for path in (bucket / "profile").glob("*/*/*/*.pb")] == [".pb"]


@pytest.mark.slow
def test_a_run_is_that_on_disk(pairs, bucket, tmp_path, stand_in, capfd):
    config = quick_config(pairs, num_steps=6, save_every=3, log_every=2)
    folder, workdir = bucket / "runs/first", str(bucket / "runs/first")
    assert train(config, tmp_path) == 0
    assert train(config, workdir) == 0
    assert_same_run(folder, tmp_path, config)
    on_disk = {path.name for path in tmp_path.iterdir()}
    assert {path.name for path in folder.iterdir()} == on_disk - {"lock"}
    capfd.readouterr()
    assert train(config, workdir) == 0
    assert "this run is complete: all 6 steps are done" in capfd.readouterr().err
    loaded = load_pretrained(workdir)
    assert loaded.source == f"{workdir}/checkpoints/6"
    local = load_pretrained(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, local.variables)
    config.optimizer.learning_rate = 2e-3
    with pytest.raises(UserError, match=f"{workdir} holds a run with another config"):
        train(config, workdir)


def objects(folder):
    start = f"{folder}/".removeprefix("s3://")
    return {path.removeprefix(start) for path in filesystem(folder).find(str(folder))}


@pytest.mark.slow
def test_results_are_those_on_disk(pairs, small, bucket, tmp_path, capfd):
    save_pretrained(small, tmp_path / "small.safetensors")
    config = evaluation_config("pairs")
    config.update(checkpoint=str(tmp_path / "small.safetensors"), data_dir=str(pairs / "val"))
    here, there = tmp_path / "results", bucket / "results"
    evaluate(config, here)
    evaluate(config, str(there))
    on_disk = {str(path.relative_to(here)) for path in here.rglob("*") if path.is_file()}
    assert objects(there) == on_disk
    ours, theirs = (json.loads((folder / "metrics.json").read_text()) for folder in (there, here))
    for one, other in zip(ours["methods"], theirs["methods"], strict=True):
        assert one["mean"] == other["mean"]
    shown = [(folder / "report.html").read_text().count("[60, 52]") for folder in (there, here)]
    assert shown == [12, 12]  # sizes of the images on the page
    for path in (here / "restored").iterdir():
        assert (there / "restored" / path.name).read_bytes() == path.read_bytes()
    (there / "restored/photo25.png").unlink()
    capfd.readouterr()
    evaluate(config, str(there))
    assert "2 of 3 images are done already" in capfd.readouterr().err
    assert objects(there) == on_disk


@pytest.mark.slow
def test_killed_and_resumed_it_is_the_run_on_disk(pairs, s3_server, bucket, tmp_path):
    validation = {"every": 20, "root": str(pairs / "val"), "num_logged_images": 1}
    config = small_config(pairs, **{f"validation__{key}": v for key, v in validation.items()})
    flags = [
        f"data.root={pairs}",
        *(f"validation.{key}={value}" for key, value in validation.items()),
    ]
    workdir = bucket / "run"
    killed = train_py(workdir, "small,SIGKILL,13", *flags, **s3_server.environment)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert max(step_folders(workdir / "checkpoints")) == 10
    assert lines(workdir, "train")[-1]["step"] == 12
    assert (workdir / "lock").exists()
    done = train_py(workdir, "small", *flags, **s3_server.environment)
    assert done.returncode == 0, done.stderr
    assert "resuming at step 10 of 20" in done.stderr
    assert train(config, tmp_path) == 0
    assert_same_run(workdir, tmp_path, config)


@pytest.mark.slow
def test_several_processes_save_one_checkpoint(pairs, s3_server, bucket, tmp_path):
    for workdir in (tmp_path / "run", bucket / "run"):
        program = arguments_of_train(pairs, workdir, "quick")
        started = start(2, program, tmp_path / "output", **s3_server.environment)
        for process in end(started, tmp_path / "output"):
            assert process.status == 0, process.output
    one, other = (lines(folder / "run", "train") for folder in (tmp_path, bucket))
    assert [record["loss"] for record in one] == [record["loss"] for record in other]
    for step in step_folders(bucket / "run/checkpoints"):
        here, there = (restored(folder / "run", step) for folder in (tmp_path, bucket))
        jax.tree.map(np.testing.assert_array_equal, here, there)
