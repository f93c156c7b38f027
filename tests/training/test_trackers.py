"""MLflow and W&B: what their own readers return, resumed and killed runs, servers that fail."""

import io
import json
import logging
import struct
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.small_run import after_step, quick_config, stand_in_objective
from tests.waiting import wait_until
from vitdeblur_jax.training import preparation, tracker_runs, trackers
from vitdeblur_jax.training.log import TrainingLog
from vitdeblur_jax.training.loop import train
from vitdeblur_jax.training.trackers import Tracker, connect
from vitdeblur_jax.utils.errors import UserError

CONFIG = {"num_steps": 30, "optimizer": {"name": "adamw"}, "data": {"sets": {}}}
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 20, 3), np.uint8)


class Killed(BaseException):
    """Ends the sending thread at once, as SIGKILL does."""


class FakeRun:
    """A tracker's server in memory. `error` is raised by each call, `image_error` by images."""

    def __init__(self):
        self.opened, self.values, self.images, self.finished = [], [], [], []
        self.error = self.image_error = None

    def _answer(self):
        if self.error:
            raise self.error

    def open(self, run_id, name, config):
        self._answer()
        self.opened.append((run_id, name, config))
        return run_id or "a1"

    def add_values(self, step, values, seconds):
        self._answer()
        self.values.append((step, dict(values)))

    def add_images(self, step, images):
        if self.image_error:
            raise self.image_error
        self.images += [(step, name) for name in images]

    def finish(self, is_complete):
        self._answer()
        self.finished.append(is_complete)


@pytest.fixture(autouse=True)
def quick_retry(monkeypatch):
    monkeypatch.setattr(trackers, "_SECONDS_TO_RETRY", 0.01)


def open_log(folder, run, first_step=0, name="fake"):
    return TrainingLog(
        folder, first_step, 30, [Tracker(name, run, folder, first_step == 0, CONFIG)]
    )


def trained(log, *steps):
    for step in steps:
        log.advance(step, images=2, seconds_waiting=0.0)
        log.train(step, {"loss": 1 / step, "odd": float("nan")})
        if step == CONFIG["num_steps"]:
            log.complete()


def logged(folder):
    """Returns the finite values of log.jsonl as (step, name of the tracker, value)."""
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {
        (record["step"], f"{record['kind']}/{name}", value)
        for record in records
        for name, value in record.items()
        if name not in ("kind", "step") and value is not None
    }


def flat(values):
    return [(step, name, value) for step, part in values for name, value in part.items()]


def test_a_tracker_gets_what_the_log_gets(tmp_path, capsys):
    run = FakeRun()
    with open_log(tmp_path / "RUN", run) as log:
        trained(log, 10, 20, 30)
        log.validation(30, {"psnr": 25.5}, {"one": PIXELS})
    assert run.opened == [(None, "RUN", CONFIG)]
    assert set(flat(run.values)) == logged(tmp_path / "RUN")
    assert run.images == [(30, "validation/one")]
    assert run.finished == [True]
    assert "warning" not in capsys.readouterr().err


def test_a_resumed_run_resumes_that_of_the_tracker_and_sends_no_step_twice(tmp_path):
    run = FakeRun()
    with open_log(tmp_path, run) as log:
        trained(log, 10, 20)
        log.validation(20, {"psnr": 20.0}, {})
    with open_log(tmp_path, run, first_step=10) as log:
        trained(log, 20)
        log.validation(20, {"psnr": 20.0}, {})
        trained(log, 30)
    assert [run_id for run_id, *_ in run.opened] == [None, "a1"]
    assert [(step, "train/loss" in values) for step, values in run.values] == [
        *((10, True), (20, True), (20, False), (30, True)),
    ]
    assert run.finished == [False, True]
    with open_log(tmp_path, run):  # starts again at step 0, perhaps with another config
        pass
    with open_log(tmp_path, run) as log:
        trained(log, 10)
    assert run.opened[-1][0] is None


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_killed_run_sends_no_step_twice(tmp_path, when):
    class KilledRun(FakeRun):
        def add_values(self, step, values, seconds):
            if step == 20 and when == "before":
                raise Killed
            super().add_values(step, values, seconds)
            if step == 20:
                raise Killed

    run = KilledRun()
    tracker = Tracker("fake", run, tmp_path, True, CONFIG)
    tracker._thread._target = lambda: _until_killed(tracker)
    tracker.begin([], print)
    for step in (10, 20):
        tracker.add("train", step, {"loss": 0.5}, {})
    tracker._thread.join()
    (tmp_path / "log.jsonl").write_text(
        "".join(f'{{"kind": "train", "step": {step}, "loss": 0.5}}\n' for step in (10, 20))
    )
    again = FakeRun()
    with open_log(tmp_path, again, first_step=20) as log:
        trained(log, 30)
    sent = [step for step, _ in run.values + again.values]
    assert sent == ([10, 30] if when == "before" else [10, 20, 30])


def test_a_tracker_turned_on_later_gets_the_whole_log(tmp_path):
    with TrainingLog(tmp_path, 0, 30) as log:
        trained(log, 10, 20)
    run = FakeRun()
    with open_log(tmp_path, run, first_step=20) as log:
        trained(log, 30)
    assert set(flat(run.values)) == logged(tmp_path)


def test_a_server_that_is_away_costs_one_warning_and_gets_all_when_it_is_back(tmp_path, capsys):
    run = FakeRun()
    run.error = ConnectionError("no route\nto host")
    with open_log(tmp_path, run) as log:
        for step in (10, 20):
            trained(log, step)
            wait_until(lambda: log._trackers[0]._failure)
        run.error = None
        wait_until(lambda: len(run.values) == 2)
        trained(log, 30)
    assert set(flat(run.values)) == logged(tmp_path)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert said == [
        "warning: fake failed (no route to host); training continues, and the missing values, but "
        "not all images, are sent when it answers again"
    ]


def test_what_a_server_missed_is_sent_by_the_next_run(tmp_path, capsys):
    run = FakeRun()
    with open_log(tmp_path, run) as log:
        trained(log, 10)
        wait_until(lambda: run.values)
        run.error = ConnectionError("away")
        trained(log, 20, 30)
    assert "warning: fake lacks the last records" in capsys.readouterr().err
    run.error = None
    with open_log(tmp_path, run, first_step=30) as log:
        log.complete()
    assert set(flat(run.values)) == logged(tmp_path)
    assert len(run.values) == 3
    assert run.finished == [True]


def test_images_that_cannot_be_stored_do_not_hold_up_the_values(tmp_path, capsys):
    run = FakeRun()
    run.image_error = ModuleNotFoundError("No module named 'boto3'")
    with open_log(tmp_path, run) as log:
        log.validation(10, {"psnr": 25.5}, {"one": PIXELS})
        trained(log, 20)
    assert set(flat(run.values)) == logged(tmp_path)
    assert capsys.readouterr().err.count("warning: fake failed (No module named 'boto3')") == 1


def test_a_server_that_never_answers_does_not_keep_a_run_from_ending(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "_SECONDS_TO_END", 0.05)
    run, answers, opened = FakeRun(), threading.Event(), threading.Event()

    def open_late(*_):
        answers.wait()
        opened.set()
        return "a1"

    run.open = open_late
    with open_log(tmp_path, run) as log:
        trained(log, 10)
    assert not opened.is_set()  # the log is closed, but the server has not answered
    answers.set()
    assert opened.wait(10)
    log._trackers[0]._thread.join()


def test_images_do_not_pile_up_while_a_server_is_away(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "_KEPT_WITH_IMAGES", 2)
    run = FakeRun()
    run.error = ConnectionError("away")
    with open_log(tmp_path, run) as log:
        for step in range(1, 7):
            log.validation(step, {"psnr": 25.5}, {"one": PIXELS})
        run.error = None
        wait_until(lambda: len(run.values) == 6)
    assert 2 <= len(run.images) <= 3


def test_a_log_that_cannot_be_opened_tells_its_own_error(tmp_path):
    tracker = Tracker("fake", FakeRun(), tmp_path, True, CONFIG)
    tracker.close()  # before `begin`
    (tmp_path / "log.jsonl").write_text('{"step": 5}\n{"kind": "train", "step": 10, "loss": 0.5}\n')
    run = FakeRun()
    with open_log(tmp_path, run, first_step=10):
        pass
    assert run.values == [(10, {"train/loss": 0.5})]


@pytest.mark.parametrize("content", ["{", "{}", '{"id": 1, "sent": []}'])
def test_a_damaged_file_is_one_line(tmp_path, content):
    (tmp_path / "trackers").mkdir()
    (tmp_path / "trackers" / "fake.json").write_text(content)
    with pytest.raises(UserError, match=r"fake\.json"):
        Tracker("fake", FakeRun(), tmp_path, False, CONFIG)


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_tracker_that_is_not_installed_is_one_line_before_all(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    config = quick_config(tmp_path / "no data", trackers=(name,))
    with pytest.raises(UserError, match=rf"pip install 'vitdeblur_jax\[{name}\]'"):
        train(config, tmp_path / "RUN")
    assert not (tmp_path / "RUN").exists()


def test_an_unknown_tracker_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"trackers is \('tensorboard',\); it must be a tuple"):
        train(quick_config(tmp_path, trackers=("tensorboard",)), tmp_path / "RUN")


class FakeWandb(types.ModuleType):
    """W&B's functions as `WandbRun` calls them, with the real rules for resuming."""

    def __init__(self, mode):
        super().__init__("wandb")
        self.mode, self.calls, self.rows = mode, [], []
        self.problem = RuntimeError("No API key configured. Use `wandb login` to log in.")
        self.errors = types.SimpleNamespace(CommError=ConnectionError)
        self.Image = lambda image: ("image", image.shape)
        self.Settings = dict

    def setup(self):
        return types.SimpleNamespace(settings=types.SimpleNamespace(mode=self.mode))

    def login(self):
        raise self.problem

    def init(self, **settings):
        self.calls.append(settings)
        return types.SimpleNamespace(
            define_metric=lambda name, step_metric: None,
            log=self.rows.append,
            finish=lambda exit_code: self.calls.append(exit_code),
        )


def test_wandb_gets_the_config_the_curves_and_the_images(tmp_path, monkeypatch):
    fake = FakeWandb("offline")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_PROJECT", "deblurring")
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "1")  # so that it is removed after the test
    for first_step, steps in ((0, (10,)), (10, (20, 30))):
        run = connect(["wandb"])["wandb"]
        with open_log(tmp_path / "RUN", run, first_step, "wandb") as log:
            trained(log, *steps)
            log.validation(steps[-1], {"psnr": 25.5}, {"one": PIXELS})
    first, status, second, last_status = fake.calls
    assert first["id"] == second["id"]
    assert (first["project"], first["name"], first["config"]) == ("deblurring", "RUN", CONFIG)
    assert (status, last_status) == (1, 0)
    values = [(row.pop("step"), row) for row in fake.rows]
    pictures = [entry for entry in flat(values) if isinstance(entry[2], tuple)]
    assert pictures == [(step, "validation/one", ("image", (6, 20, 3))) for step in (10, 30)]
    assert set(flat(values)) - set(pictures) == logged(tmp_path / "RUN")


def test_wandb_tries_again_with_the_same_run(monkeypatch):
    fake = FakeWandb("offline")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "1")
    run = connect(["wandb"])["wandb"]
    assert run.open(None, "RUN", CONFIG) == run.open(None, "RUN", CONFIG)
    assert run.open("a1", "RUN", CONFIG) == "a1"


def test_wandb_without_a_key_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb("online"))
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "1")
    with pytest.raises(UserError, match=r"No API key configured.*WANDB_MODE=offline"):
        connect(["wandb"])
    sys.modules["wandb"].problem = ConnectionError("away")
    connect(["wandb"])


def wandb_records(path):
    """Reads a W&B file, a log of LevelDB: blocks of 32 KiB with the parts of records.

    A part has a checksum of 4 bytes, its size in 2, and its type: whole, first, middle or last.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    data, record = path.read_bytes(), b""
    block = 2**15
    at = 7  # after the header of the file
    while at + 7 <= len(data):
        if block - at % block < 7:  # too short for a part
            at += block - at % block
            continue
        size, kind = struct.unpack_from("<HB", data, at + 4)
        record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            yield Record.FromString(record)
            record = b""


@pytest.mark.slow
def test_wandb_offline_files_hold_the_log(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "10")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    workdir = tmp_path / "RUN"
    for first_step, steps in ((0, (10, 20)), (10, (20, 30))):
        with open_log(workdir, connect(["wandb"])["wandb"], first_step, "wandb") as log:
            for step in steps:
                trained(log, step)
                log.validation(step, {"psnr": 25.0 + step}, {"one": PIXELS})
    found, ids = [], set()
    paths = list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert len(paths) == 2
    for path in paths:
        # Another process writes them.
        wait_until(lambda path=path: any(record.HasField("exit") for record in wandb_records(path)))
        for record in wandb_records(path):
            if record.HasField("run"):
                ids.add(record.run.run_id)
                config = {
                    item.key: json.loads(item.value_json) for item in record.run.config.update
                }
                assert config["num_steps"] == 30
            elif record.HasField("history"):
                row = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                step = row.pop("step")
                found += [(step, name, value) for name, value in row.items()]
    curves = [
        (step, name, value)
        for step, name, value in found
        if name.startswith(("train/", "validation/psnr"))
    ]
    steps = [(step, name) for step, name, _ in curves]
    assert len(set(steps)) == len(steps)
    rates = ("steps_per_second", "images_per_second", "waiting_share")  # of the first time
    assert {e for e in curves if not e[1].endswith(rates)} == {
        e for e in logged(workdir) if not e[1].endswith(rates)
    }
    assert len(ids) == 1
    pictures = sorted(tmp_path.glob("wandb/offline-run-*/files/media/images/validation/*.png"))
    assert len(pictures) == 3
    np.testing.assert_array_equal(np.asarray(Image.open(pictures[0])), PIXELS)


@pytest.fixture
def mlflow_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    yield tmp_path / "mlruns"
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).handlers.clear()


def mlflow_runs():
    import mlflow

    client = mlflow.MlflowClient(mlflow.get_tracking_uri())
    (experiment,) = client.search_experiments(filter_string="name = 'vitdeblur_jax'")
    return client, client.search_runs([experiment.experiment_id])


def mlflow_values(client, run):
    return [
        (metric.step, name, metric.value)
        for name in run.data.metrics
        for metric in client.get_metric_history(run.info.run_id, name)
    ]


@pytest.mark.slow
def test_mlflow_returns_the_log_of_a_killed_run(pairs, tmp_path, monkeypatch, mlflow_folder):
    monkeypatch.setattr(preparation, "weighted_objective", stand_in_objective)
    config = quick_config(pairs, trackers=("mlflow",), validation__every=10)
    config.validation.root = str(pairs / "val")
    with monkeypatch.context() as patch:
        patch.setattr(TrainingLog, "advance", after_step(13, _kill))
        with pytest.raises(Killed):
            train(config, tmp_path / "RUN")
    assert train(config, tmp_path / "RUN") == 0
    client, (run,) = mlflow_runs()
    found = mlflow_values(client, run)
    assert len({entry[:2] for entry in found}) == len(found)
    rates = ("steps_per_second", "images_per_second", "waiting_share")
    assert {e for e in found if not e[1].endswith(rates)} == {
        e for e in logged(tmp_path / "RUN") if not e[1].endswith(rates)
    }
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "RUN"
    assert run.data.params["optimizer.name"] == "adamw"
    assert run.data.params["trackers"] == "('mlflow',)"


def test_mlflow_reads_back_a_resumed_log(tmp_path, mlflow_folder):
    for first_step, steps in ((0, (10, 20)), (10, (20, 30))):
        with open_log(tmp_path / "RUN", connect(["mlflow"])["mlflow"], first_step, "mlflow") as log:
            trained(log, *steps)
            log.validation(steps[-1], {"a set/psnr": 25.0}, {"an image, (1)": PIXELS})
        client, (run,) = mlflow_runs()
        assert run.info.status == ("FINISHED" if first_step else "KILLED")
    found = mlflow_values(client, run)
    steps = [(step, name) for step, name, _ in found]
    assert len(set(steps)) == len(steps)
    losses = {(step, value) for step, name, value in found if name == "train/loss"}
    assert losses == {(10, 1 / 10), (20, 1 / 20), (30, 1 / 30)}
    assert {name for _, name in steps} == {name for _, name, _ in logged(tmp_path / "RUN")}
    assert run.data.params == {"num_steps": "30", "optimizer.name": "adamw"}
    stored = sorted(Path(mlflow_folder).rglob("artifacts/images/*.png"))
    assert len(stored) == 2
    with Image.open(io.BytesIO(stored[0].read_bytes())) as image:
        np.testing.assert_array_equal(np.asarray(image), PIXELS)


def test_mlflow_tries_again_with_the_same_run(mlflow_folder, monkeypatch):
    run = connect(["mlflow"])["mlflow"]
    with monkeypatch.context() as patch:
        patch.setattr(run._client, "log_batch", _away)
        with pytest.raises(ConnectionError):
            run.open(None, "RUN", CONFIG)
    run_id = run.open(None, "RUN", CONFIG)
    _, (stored,) = mlflow_runs()
    assert stored.info.run_id == run_id
    assert stored.data.params == {"num_steps": "30", "optimizer.name": "adamw"}


def test_mlflow_without_a_store_is_one_line(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///absent/mlflow.db")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=r"cannot log to sqlite:.*set MLFLOW_TRACKING_URI"):
        connect(["mlflow"])


def _until_killed(tracker):
    with pytest.raises(Killed):
        tracker._work()


def _away(*_, **__):
    raise ConnectionError("away")


def _kill(folder):
    raise Killed


def test_both_trackers_have_the_same_methods():
    for kind in tracker_runs.RUNS.values():
        assert issubclass(kind, tracker_runs.TrackerRun)
