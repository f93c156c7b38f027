"""Runs whose batches the devices compute: resumed bit for bit, on one device or several."""

import functools
import json
import signal

import jax
import numpy as np
import pytest

from tests.training.same_run import assert_same_run, lines
from tests.training.several_processes import end, restored, start
from tests.training.small_run import after_step, quick_config, stand_in_objective
from tests.training.test_data import batches
from tests.training.test_loop import send
from vitdeblur_jax.data import device_synthesis
from vitdeblur_jax.data.image_io import read_rgb
from vitdeblur_jax.training import preparation, train
from vitdeblur_jax.training.data import TrainingData
from vitdeblur_jax.training.log import TrainingLog

SMALL_BLUR = {
    "data__synthesis__largest_radius": 4.0,
    "data__synthesis__usual_radius": (0.5, 3.0),
    "data__synthesis__jpeg_share": 0.0,
}
DEVICE = {"data__kind": "synthetic", "data__synthesis__device": True, **SMALL_BLUR}


@pytest.fixture(scope="module")
def sharp(pairs):
    return pairs / "sharp"


def test_stages_and_names_take_the_examples_in_the_order_of_the_host(sharp, monkeypatch):
    def places_alone(recipe, sharding):
        return lambda images, places: {"place": places, "crop": recipe.crop}

    monkeypatch.setattr(device_synthesis, "_compiled", places_alone)
    changes = {"num_steps": 9, "progressive": ((3, 48, 2),), "data__kind": "synthetic"}
    host = TrainingData(quick_config(sharp, **changes, **SMALL_BLUR))
    data = TrainingData(quick_config(sharp, **{**changes, **DEVICE}))
    for step in (2, 3, 5):
        (batch,), (known,) = batches(data, step, 1), batches(host, step, 1)
        size = 4 if step < 3 else 2
        want = [(step, row, index) for row, index in enumerate(known["index"])]
        np.testing.assert_array_equal(batch["place"], want)
        assert batch["crop"] == (46 if size == 4 else 48)
        expected = [f"photo{index} (index {index})" for index in known["index"]]
        assert data.names(step) == host.names(step) == expected


def test_a_batch_depends_on_the_step_alone_and_holds_crops(sharp):
    config = quick_config(sharp, **DEVICE)
    whole = batches(TrainingData(config), 0, 3)
    again = batches(TrainingData(config), 1, 2)
    jax.tree.map(np.testing.assert_array_equal, again, whole[1:])
    crops = [crop.tobytes() for batch in whole for crop in batch["blurred"]]
    assert len(set(crops)) == 3 * 4
    for batch in whole:
        dtypes = {key: value.dtype for key, value in batch.items()}
        assert dtypes == {"blurred": np.uint8, "sharp": np.uint8, "index": np.int32}
        assert batch["blurred"].shape == batch["sharp"].shape == (4, 46, 46, 3)
        for index, crop in zip(batch["index"], batch["sharp"], strict=True):
            assert_is_crop(crop, read_rgb(sharp / f"photo{index}.png"))


def assert_is_crop(crop, image):
    """Asserts that a crop is a part of an image, turned or mirrored."""
    turned = [np.rot90(side, turns) for side in (crop, crop[:, ::-1]) for turns in range(4)]
    parts = np.lib.stride_tricks.sliding_window_view(image, crop.shape)
    assert any((parts == one).all((-1, -2, -3)).any() for one in turned)


def test_stopped_and_resumed_it_is_the_same_run(sharp, tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "weighted_objective", stand_in_objective)
    config = quick_config(sharp, **DEVICE, num_steps=8, log_every=2)
    assert train(config, tmp_path / "whole") == 0
    with monkeypatch.context() as patch:
        stop = after_step(3, functools.partial(send, signal.SIGTERM))
        patch.setattr(TrainingLog, "advance", stop)
        assert train(config, tmp_path / "resumed") == 143
    assert train(config, tmp_path / "resumed") == 0
    assert_same_run(tmp_path / "resumed", tmp_path / "whole", config)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "devices"), [(1, 2), (2, 1), (2, 2)])
def test_several_devices_and_processes_train_as_one_does(sharp, tmp_path, processes, devices):
    flags = {key.replace("__", "."): value for key, value in DEVICE.items()}
    flags |= {"data.root": sharp, "num_steps": 4, "log_every": 1}
    flags |= {"data.hold_out": 1, "validation.every": 4, "validation.num_images": 1}
    flags = [f"--config.{key}={value}" for key, value in flags.items()]
    config = "--config=tests/training/small_run.py:quick"
    for count, of_each, name in ((1, 1, "one"), (processes, devices, "several")):
        program = ["train.py", config, *flags, f"--workdir={tmp_path / name}"]
        output = tmp_path / f"{name}_output"
        for ended in end(start(count, program, output, devices=of_each), output):
            assert ended.status == 0, ended.output
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("one", "several")]
    one, several = ([json.loads(line) for line in log] for log in logs)
    one, several = ([line["loss"] for line in log if "loss" in line] for log in (one, several))
    assert len(one) == 4
    for name in ("one", "several"):
        assert len(lines(tmp_path / name, "validation")) == 1
    np.testing.assert_allclose(several, one, rtol=1e-5)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        *(restored(tmp_path / name, 4) for name in ("several", "one")),
    )
