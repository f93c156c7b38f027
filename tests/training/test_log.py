"""The log of a run: its lines after a kill, TensorBoard's files read back, progress by a clock."""

import io
import json
import struct
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tqdm import TMonitor

from tests.fake_terminal import Terminal, set_clock
from vitdeblur_jax.training import log as log_module
from vitdeblur_jax.training.log import TrainingLog
from vitdeblur_jax.utils.errors import UserError


@pytest.fixture
def clock(monkeypatch):
    return set_clock(monkeypatch, log_module)


def lines(folder: Path) -> list[dict]:
    def not_json(word):
        raise AssertionError(f"{word} is not JSON")

    text = (folder / "log.jsonl").read_text()
    assert text == "" or text.endswith("\n")
    return [json.loads(line, parse_constant=not_json) for line in text.splitlines()]


def events(path: Path) -> list[Event]:
    """Reads TFRecords: the length in 8 bytes, its checksum in 4, the event, its checksum in 4."""
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return found


def event_files(folder: Path) -> list[Path]:
    return sorted((folder / "tensorboard").iterdir())


def curves(path: Path) -> list[tuple[int, str, float]]:
    return [
        (event.step, value.tag, value.simple_value)
        for event in events(path)
        for value in event.summary.value
        if value.HasField("simple_value")
    ]


def trained(log, *steps, loss=0.5):
    for step in steps:
        log.advance(step, images=2, seconds_waiting=0.0)
        log.train(step, {"loss": loss})


def test_a_line_of_training_and_one_of_validation(tmp_path, clock):
    with TrainingLog(tmp_path, 0, 100) as log:
        for step in range(1, 11):
            clock.now += 0.5
            log.advance(step, images=4, seconds_waiting=0.1)
        log.train(10, {"loss": 0.1, "gradient_norm": 3.0})
        log.validation(10, {"psnr": 25.5}, {})
    train, validation = lines(tmp_path)
    assert train == {
        "kind": "train",
        "step": 10,
        "loss": 0.1,
        "gradient_norm": 3.0,
        "steps_per_second": 2.0,
        "images_per_second": 8.0,
        "waiting_share": pytest.approx(0.2),
    }
    assert validation == {"kind": "validation", "step": 10, "psnr": 25.5}


def test_a_new_run_drops_the_records_of_a_killed_one(tmp_path):
    for psnr in (20.0, 21.0):
        with TrainingLog(tmp_path, 0, 100, is_new=True) as log:
            log.validation(0, {"psnr": psnr}, {})
    assert lines(tmp_path) == [{"kind": "validation", "step": 0, "psnr": 21.0}]


def test_a_line_is_on_disk_at_once(tmp_path):
    with TrainingLog(tmp_path, 0, 100) as log:
        trained(log, 10)
        assert [line["step"] for line in lines(tmp_path)] == [10]
        assert curves(*event_files(tmp_path))[0] == (10, "train/loss", 0.5)


def test_what_is_not_finite_becomes_null(tmp_path):
    with TrainingLog(tmp_path, 0, 100) as log:
        log.train(1, {"loss": float("nan"), "gradient_norm": float("inf"), "cosine": 0.5})
        log.validation(1, {"psnr": float("-inf")}, {})
    train, validation = lines(tmp_path)
    assert (train["loss"], train["gradient_norm"], train["cosine"]) == (None, None, 0.5)
    assert validation["psnr"] is None
    tags = {tag for _, tag, _ in curves(*event_files(tmp_path))}
    assert "train/cosine" in tags
    assert not tags & {"train/loss", "train/gradient_norm", "validation/psnr"}


@pytest.mark.parametrize(
    "half",
    [
        *(
            "",
            '{"kind": "train", "st',
            '{"kind": "train", "step": 1',
            "\0\0",
            "null",
            "[" * 100_000,
        ),
        *('{"kind": "train", "step": "x"}\n', '{"step": 5}\n', "[1]\n"),
    ],
)
def test_a_step_has_one_line_whatever_was_killed(tmp_path, half):
    with TrainingLog(tmp_path, 0, 50) as log:
        trained(log, 10, 20, loss=1.0)
        log.validation(20, {"psnr": 20.0}, {})
        trained(log, 30)
        log.validation(30, {"psnr": 30.0}, {})
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write(half)
    with TrainingLog(tmp_path, 20, 50) as log:
        assert log.last("train")["step"] == 20
        assert log.last("validation") == {"kind": "validation", "step": 20, "psnr": 20.0}
        trained(log, 30, 40)
    found = [(line["kind"], line["step"]) for line in lines(tmp_path) if "kind" in line]
    assert found == [("train", 10), ("train", 20), ("validation", 20), ("train", 30), ("train", 40)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "tensorboard"]


@pytest.mark.parametrize("cut", [1, 5, 60])
def test_a_last_line_cut_anywhere_leaves_whole_lines(tmp_path, cut):
    with TrainingLog(tmp_path, 0, 50) as log:
        trained(log, 10, 20)
    path = tmp_path / "log.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    with TrainingLog(tmp_path, 20, 50) as log:
        trained(log, 30)
    kept = [10, 20, 30] if cut == 1 else [10, 30]  # only the end of the line was missing
    assert [line["step"] for line in lines(tmp_path)] == kept


def test_a_new_log_has_no_last_line(tmp_path):
    with TrainingLog(tmp_path / "new" / "run", 0, 50) as log:
        assert log.last("train") is None
        trained(log, 10)
        assert log.last("validation") is None


def test_tensorboard_reads_back(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 20, 3), np.uint8)
    with TrainingLog(tmp_path, 0, 50) as log:
        trained(log, 10, loss=0.25)
        log.validation(10, {"psnr": 25.5}, {"an image": pixels})
    (path,) = event_files(tmp_path)
    found = {(step, tag): value for step, tag, value in curves(path)}
    assert found[10, "train/loss"] == 0.25
    assert found[10, "validation/psnr"] == 25.5
    assert {tag for _, tag in found} >= {"train/steps_per_second", "train/waiting_share"}
    ((step, image),) = [
        (event.step, value)
        for event in events(path)
        for value in event.summary.value
        if value.HasField("image")
    ]
    assert (step, image.tag) == (10, "validation/an_image")
    assert (image.image.height, image.image.width) == (6, 20)
    decoded = Image.open(io.BytesIO(image.image.encoded_image_string))
    np.testing.assert_array_equal(np.asarray(decoded), pixels)


def test_tensorboard_is_told_to_drop_what_is_done_again(tmp_path):
    with TrainingLog(tmp_path, 0, 50) as log:
        trained(log, 10, 20, 30)
    with TrainingLog(tmp_path, 20, 50) as log:
        trained(log, 30)
    first, second = event_files(tmp_path)
    assert [step for step, tag, _ in curves(first) if tag == "train/loss"] == [10, 20, 30]
    version, start = events(second)[:2]
    assert version.file_version == "brain.Event:2"  # from which on it looks for a START
    assert (start.session_log.status, start.step) == (SessionLog.START, 21)


def test_time_not_spent_training_is_left_out_of_the_rates(tmp_path, clock):
    with TrainingLog(tmp_path, 0, 100) as log:
        trained(log, 10)
        clock.now += 10
        with log.not_training():
            clock.now += 1000
        clock.now += 10
        log.advance(20, images=60, seconds_waiting=5.0)
        log.train(20, {"loss": 0.5})
    second = lines(tmp_path)[1]
    assert second["steps_per_second"] == 0.5
    assert second["images_per_second"] == 3.0
    assert second["waiting_share"] == 0.25


def test_a_plain_line_off_a_terminal(tmp_path, clock, capsys):
    with TrainingLog(tmp_path, 1000, 20000) as log:
        clock.now += 500  # the first steps are compiled
        log.advance(1100, images=800, seconds_waiting=1.0)
        log.train(1100, {"loss": 0.04})
        clock.now += 100
        log.advance(1200, images=800, seconds_waiting=2.0)
        log.train(1200, {"loss": 0.03124})
        log.validation(1200, {"psnr": 24.1234, "ssim": 0.71}, {})
        log.say("saved")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "step 1100 of 20000: loss 0.04, 0.2 steps/s, 1.6 images/s, 0 % waiting for data",
        "step 1200 of 20000: loss 0.0312, 1 steps/s, 8 images/s, 5 h 13 min left, "
        "2 % waiting for data",
        "validation at step 1200: psnr 24.12, ssim 0.71",
        "saved",
    ]


def test_time_left_counts_validations(tmp_path, clock, capsys):
    with TrainingLog(tmp_path, 0, 300) as log:
        trained(log, 100)
        clock.now += 100
        with log.not_training():
            clock.now += 60
        trained(log, 200)
    assert ", 3 min left, " in capsys.readouterr().err  # 160 s for 100 steps


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (42, "42 s"), (90, "2 min"), (3599, "1 h 0 min"), (200_000, "2 d 7 h")],
)
def test_durations(tmp_path, clock, capsys, seconds, text):
    with TrainingLog(tmp_path, 0, 3) as log:
        trained(log, 1)
        clock.now += seconds
        trained(log, 2)
    assert f", {text} left, " in capsys.readouterr().err


def test_a_bar_on_a_terminal(tmp_path, monkeypatch, clock):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with TrainingLog(tmp_path, 50, 100) as log:
        clock.now += 10
        for step in range(51, 61):
            log.advance(step, images=9, seconds_waiting=0.02)
        log.train(60, {"loss": 0.0312})
    shown = sys.stderr.getvalue()
    assert "60/100" in shown
    assert "loss 0.0312, 9 images/s, waiting 2 %" in shown
    assert "waiting for data" not in shown  # the plain line
    assert shown.endswith("\n")


def test_no_thread_is_started(tmp_path):
    before = set(threading.enumerate())
    with TrainingLog(tmp_path, 0, 100) as log:
        trained(log, 10)
        log.validation(10, {"psnr": 25.5}, {"image": np.zeros((2, 2, 3), np.uint8)})
        started = set(threading.enumerate()) - before
    assert not [thread for thread in started if not isinstance(thread, TMonitor)]  # that of bars
    log.close()  # which does nothing the second time


def test_without_tensorboardx_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match=r"pip install 'vitdeblur_jax\[train\]'"):
        TrainingLog(tmp_path, 0, 100)


def test_a_full_disk_ends_the_run_with_one_line(tmp_path, monkeypatch):
    with TrainingLog(tmp_path, 0, 100) as log:
        trained(log, 10)

        def full(data):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(log._events._file, "write", full)
        with pytest.raises(UserError, match=r"tfevents.*No space left on device"):
            trained(log, *range(20, 2000))


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(UserError, match=r"log\.jsonl: cannot be written"):
        TrainingLog(tmp_path, 0, 100)
