"""Several data sets in one run: their shares, what is held out of each, and what is validated."""

import json

import numpy as np
import pytest
from PIL import Image

from tests import made_up_data
from tests.training.small_run import images, quick_config, stand_in_objective
from tests.training.test_data import batches
from vitdeblur_jax.training import preparation, train
from vitdeblur_jax.training.configuration import free_keys
from vitdeblur_jax.training.data import TrainingData
from vitdeblur_jax.training.resume_checks import check_is_same_data
from vitdeblur_jax.utils.errors import UserError

CROP = 16
LOW, MADE, HIGH = range(10, 26), range(100, 108), range(210, 227)  # gray values


def flat(root, grays, folders=("blurred", "sharp"), dtype=np.uint8) -> str:
    """Writes pairs of one gray value each, named after it; returns the folder."""
    for gray in grays:
        for folder in folders:
            (root / folder).mkdir(parents=True, exist_ok=True)
            pixels = np.full((20, 24, 3), gray, np.uint8)
            Image.fromarray(pixels).save(root / folder / f"gray{gray}.png")
    return str(root)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    made = flat(root, MADE, ("made",)) + "/made"
    return {"low": flat(root / "low", LOW), "high": flat(root / "high", HIGH), "made": made}


@pytest.fixture
def sets(roots):
    """Two sets of pairs, and one of sharp images."""
    return {
        "low": {"root": roots["low"]},
        "high": {"root": roots["high"], "hold_out": 1},
        "made": {"kind": "synthetic", "root": roots["made"]},
    }


def config_of(sets, *mixture, **changes):
    config = quick_config("", crop=CROP, data__layout="pairs")
    config.data.update(sets=sets, mixture=mixture)
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def grays(taken) -> np.ndarray:
    return np.concatenate([batch["sharp"][:, 0, 0, 0] for batch in taken])


def test_each_set_has_its_share_and_its_own_keys(sets):
    mixture = ("low", 1.0), ("high", 2.0), ("made", 0.5)
    data = TrainingData(config_of(sets, *mixture))
    taken = grays(batches(data, 0, 14))
    assert {*taken.tolist()} == {*LOW, *MADE, *HIGH} - {210}  # held out
    parts = [np.sum((taken >= low) & (taken < low + 100)) for low in (0, 200, 100)]
    assert parts == [16, 32, 8]


def test_what_one_set_holds_out_is_validated_under_its_name(sets, tmp_path):
    sets["high"]["hold_out"] = 2  # spread evenly: the first and the last
    sets["real"] = {"root": flat(tmp_path, (1, 2, 3)), "validation_split": "x"}
    config = config_of(
        sets, ("high", 1.0), ("low", 1.0), validation__every=1, validation__sets=("real", "high")
    )
    data = TrainingData(config)
    assert list(data.validation) == ["real", "high"]
    assert [e["name"] for e in data.validation["high"]] == ["gray210", "gray226"]
    assert [e["name"] for e in data.validation["real"]] == ["gray1", "gray2", "gray3"]
    assert {*grays(batches(data, 0, 8)).tolist()} == {*LOW, *HIGH[1:-1]}


def test_a_step_and_its_names_are_the_same_after_a_restart_and_across_stages(sets):
    mixture = ("low", 1.0), ("high", 3.0)
    config = config_of(sets, *mixture, num_steps=9, progressive=((3, 20, 2), (6, 18, 3)))
    data = TrainingData(config)
    whole = [batches(data, step, 1)[0] for step in range(9)]
    again = TrainingData(config)
    for step, batch in enumerate(whole):
        for key, value in batches(again, step, 1)[0].items():
            np.testing.assert_array_equal(value, batch[key])
        expected = [
            f"{'low' if gray < 100 else 'high'}/gray{gray} (index {index})"
            for gray, index in zip(grays([batch]), batch["index"], strict=True)
        ]
        assert data.names(step) == expected
    one_by_one = TrainingData(config_of(sets, *mixture, batch_size=1, num_steps=99))
    order = np.concatenate([batch["index"] for batch in whole])
    assert order.tolist() == [int(b["index"][0]) for b in batches(one_by_one, 0, len(order))]


def test_the_fingerprint_is_of_each_set_and_its_root_is_free(sets, tmp_path):
    config = config_of(sets, ("low", 1.0), ("high", 1.0))
    begun = TrainingData(config).fingerprint
    assert {path: of["examples"] for path, of in begun.items()} == {
        "data.sets.low": 16,
        "data.sets.high": 16,
    }
    assert {"data.sets.low.root", "data.sets.high.root"} <= set(free_keys(config))
    sets["low"]["root"] = flat(tmp_path / "moved", LOW)
    assert TrainingData(config_of(sets, ("low", 1.0), ("high", 1.0))).fingerprint == begun
    flat(tmp_path / "moved", (50,))
    other = TrainingData(config_of(sets, ("low", 1.0), ("high", 1.0))).fingerprint
    assert [path for path in begun if other[path] != begun[path]] == ["data.sets.low"]
    check_is_same_data([begun, begun], "training")
    with pytest.raises(UserError, match=r"data\.sets\.low: process 1 .* with 17 and 16 examples"):
        check_is_same_data([begun, other], "training")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"low": {"root": ""}}, r"--config\.data\.sets\.low\.root is missing"),
        ({"low": {"hold_out": 16}}, r"data\.sets\.low\.hold_out is 16, .* none remain"),
        ({}, r"data\.sets\.low: the validation data is the training data"),
        (
            {"low": {"hold_out": 1}, "made": {"root": "LOW/sharp"}},
            r"data\.sets\.low: the validation data is the training data",
        ),
        (
            {"low": {"hold_out": 1}, "high": {"root": "DEEP", "bit_depth": 16}},
            r"several bit depths \(data\.sets\.low 8, data\.sets\.high 16, data\.sets\.made 8\)",
        ),
    ],
)
def test_sets_that_cannot_be_mixed_are_told(sets, roots, tmp_path, changes, message):
    made_up_data.pairs(tmp_path / "DEEP", bits=16)
    for name, keys in changes.items():
        sets[name] |= keys
        sets[name]["root"] = sets[name]["root"].replace("LOW", roots["low"])
        sets[name]["root"] = sets[name]["root"].replace("DEEP", str(tmp_path / "DEEP"))
    config = config_of(sets, ("low", 1.0), ("high", 1.0), ("made", 1.0), validation__every=1)
    config.validation.sets = ("low",)
    with pytest.raises(UserError, match=message) as told:
        TrainingData(config)
    assert "\n" not in str(told.value)


def test_a_run_validates_with_each_set_and_keeps_the_best_step_of_the_first(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(preparation, "weighted_objective", stand_in_objective)
    sets = {
        name: {"root": str(images(tmp_path / name, count=3, first=3 * number))}
        for number, name in enumerate(("one", "two", "real"))
    }
    constant = {"optimizer__schedule": "constant"}
    config = quick_config("", num_steps=4, log_every=2, save_every=2, **constant)
    config.data.update(sets=sets, mixture=(("one", 1.0), ("two", 1.0)))
    config.validation.update(every=2, sets=("real",), num_logged_images=1)
    config.data.sets.two.hold_out = 1
    config.validation.sets = ("real", "two")
    assert train(config, tmp_path / "run") == 0
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    validated = [line for line in lines if line["kind"] == "validation"]
    assert [line["step"] for line in validated] == [2, 4]
    for line in validated:
        assert {"real/psnr", "real/ssim", "two/psnr", "two/input_psnr"} <= line.keys()
        assert line["real/input_psnr"] != line["two/input_psnr"]
    said = capsys.readouterr().err
    assert "validation at step 2 on real: psnr_gain" in said
    assert "validation at step 2 on two: psnr_gain" in said
    for line in validated:
        metrics = tmp_path / f"run/checkpoints/{line['step']}/metrics/metrics"
        assert json.loads(metrics.read_text())["psnr"] == pytest.approx(line["real/psnr"])
    assert {path.stem for path in (tmp_path / "run/validation_images").iterdir()} == {
        "real_photo6",
        "two_photo3",
    }
