"""A model measured over small made-up data sets, against scikit-image."""

import dataclasses
import io
import json
import math
import os
import re
import sys
import threading
from pathlib import Path

import imagecodecs
import ml_collections
import numpy as np
import pytest

from configs.evaluate import get_config
from tests.evaluation.scikit_image_figures import scikit_image_figures
from tests.made_up_data import write_png
from tests.small_model import small_pretrained, write_deep_checkpoint
from vitdeblur_jax import Pretrained, deblur, load_pretrained, save_pretrained
from vitdeblur_jax.data.image_io import as_8_bits, read_rgb
from vitdeblur_jax.data.layouts import LAYOUTS
from vitdeblur_jax.evaluation import evaluate, preparation, run
from vitdeblur_jax.evaluation.metrics_json import check_results_folder
from vitdeblur_jax.evaluation.results_folder import Results
from vitdeblur_jax.evaluation.score import Method, score
from vitdeblur_jax.metrics import DEFAULT
from vitdeblur_jax.utils.errors import UserError

STRIDE = 30
SIZE = (45, 50)
COMPARED = ("input", "output", "saved")

# For each layout: result name, files of the views, file of the target.
FILES = {
    "dpdd": [
        ("1P0A0002", ["test_c/source/1P0A0002.png"], "test_c/target/1P0A0001.png"),
        ("1P0A0012", ["test_c/source/1P0A0012.png"], "test_c/target/1P0A0011.png"),
    ],
    "dpdd_dual_pixel": [
        ("l1", ["test_l/source/l1.png", "test_r/source/r1.png"], "test_c/target/c1.png"),
        ("l2", ["test_l/source/l2.png", "test_r/source/r2.png"], "test_c/target/c2.png"),
    ],
    "realdof": [
        ("a", ["source/a.png"], "target/a.png"),
        ("b", ["source/b.png"], "target/b.png"),
    ],
    "lfdof": [
        ("tree_1", ["test_data/input/tree/1.png"], "test_data/ground_truth/tree.png"),
        ("tree_2", ["test_data/input/tree/2.png"], "test_data/ground_truth/tree.png"),
    ],
    "lfdof flat": [("tree", ["input/tree.png"], "ground_truth/tree.png")],
    "pairs": [
        ("a", ["input/a.png"], "ground_truth/a.png"),
        ("b", ["input/b.png"], "ground_truth/b.png"),
    ],
    "pixeldp": [("a", ["test_c/a.png"], None), ("b", ["test_c/b.png"], None)],
    "pixeldp_dual_pixel": [("l1", ["test_l/l1.png", "test_r/r1.png"], None)],
    "images": [("a", ["a.png"], None), ("b", ["b.png"], None)],
}
# What pairs them where it is not their names.
PAIRED = {"dpdd": "order"}
# What lies beside them, and is not restored.
BESIDE = {"pixeldp_dual_pixel": [("c1", ["test_c/c1.png"], None)]}


@pytest.fixture(scope="module")
def checkpoints(small, tmp_path_factory) -> dict[int, Path]:
    """The checkpoints of small models, by the number of views."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for views, model in {1: small, 2: small_pretrained(views=2)}.items():
        save_pretrained(model, folder / f"{views}.safetensors")
    return {views: folder / f"{views}.safetensors" for views in (1, 2)}


@pytest.fixture(scope="module")
def models(checkpoints) -> dict[int, Pretrained]:
    return {views: load_pretrained(path) for views, path in checkpoints.items()}


@pytest.fixture
def settings(tmp_path, checkpoints):
    """Makes the config of an evaluation of `tmp_path / "data"`."""

    def make(layout: str = "pairs", **changes) -> ml_collections.ConfigDict:
        config = get_config(layout)
        config.update(checkpoint=str(checkpoints[1]), data_dir=str(tmp_path / "data"))
        config.update({"stride": STRIDE, **changes})
        return config

    return make


def noise(seed: int, dtype: type = np.uint8) -> np.ndarray:
    whole = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, whole, (*SIZE, 3), dtype, endpoint=True)


def make_data(folder: Path, files: list, dtype: type = np.uint8) -> dict[str, np.ndarray]:
    """Writes images of noise, each different, and returns them by their paths."""
    paths = dict.fromkeys(path for _, views, target in files for path in (*views, target) if path)
    images = {path: noise(seed, dtype) for seed, path in enumerate(paths)}
    for path, image in images.items():
        write_png(folder / path, image)
    return images


def make_pairs(tmp_path: Path) -> None:
    make_data(tmp_path / "data", FILES["pairs"])


def contents(workdir: Path) -> dict:
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads((workdir / "metrics.json").read_text(), parse_constant=refuse)


def figures(found: dict) -> dict[str, dict]:
    """Returns the figures of each image, by what was compared."""
    return {
        method["name"]: {name: record["metrics"] for name, record in method["images"].items()}
        for method in found["methods"]
    }


def means(found: dict) -> dict[str, dict]:
    return {method["name"]: method["mean"] for method in found["methods"]}


def check_image(workdir, name, views, target, pretrained):
    """Compares what an evaluation wrote of an image with what follows from `deblur`."""
    whole = np.iinfo(views[0].dtype).max
    blurred = np.concatenate(views, axis=-1) / np.float32(whole)
    output = deblur(blurred, pretrained, stride=STRIDE).clip(0, 1)
    saved = np.round(output * whole).astype(views[0].dtype)
    png = imagecodecs.png_decode((workdir / "restored" / f"{name}.png").read_bytes())
    np.testing.assert_array_equal(png, saved)
    assert (saved != np.floor(output * whole)).any()
    found = contents(workdir)
    record = found["restored"][name]
    assert (record["height"], record["width"]) == SIZE
    assert record["seconds"] > 0
    if target is None:
        assert record["target"] is None
        assert found["methods"] == []
        return
    reference = target / np.iinfo(target.dtype).max
    mean = np.mean([view / whole for view in views], axis=0)
    for compared, image in zip(COMPARED, (mean, output.astype(float), saved / whole), strict=True):
        expected = scikit_image_figures(image, reference)
        assert figures(found)[compared][name] == pytest.approx(expected, rel=1e-6, abs=1e-6)


def first_and_last(files: list) -> str:
    paths = [[*views, target] if target else views for _, views, target in files]
    first, *_, last = [" <-> ".join(Path(path).stem for path in of) for of in (paths * 2)]
    return f"first: {first}, last: {last}"


def test_every_layout_is_tested():
    assert {case.split()[0] for case in FILES} == set(LAYOUTS)


@pytest.mark.parametrize("case", FILES)
def test_layouts(tmp_path, settings, checkpoints, models, case, capsys):
    files, layout = FILES[case], case.split()[0]
    images = make_data(tmp_path / "data", files + BESIDE.get(case, []))
    views = len(files[0][1])
    evaluate(settings(layout, checkpoint=str(checkpoints[views])), tmp_path / "results")
    for name, sources, target in files:
        pixels = [images[path] for path in sources], target and images[target]
        check_image(tmp_path / "results", name, *pixels, models[views])
    said = capsys.readouterr()
    written = "report.html" if FILES[layout][0][2] else "metrics.json"
    is_paired = len(files[0][1]) > 1 or files[0][2] is not None
    *lines, waited, last = said.err.splitlines()
    assert re.fullmatch(r"waited for reading, measuring and writing: \d+ % of \d+\.\d s", waited)
    assert [*lines, last] == [
        *[f"paired by {PAIRED.get(case, 'name')}, {first_and_last(files)}"] * is_paired,
        *(f"{i} of {len(files)}: {name}" for i, (name, *_) in enumerate(files, 1)),
        f"written: {tmp_path / 'results' / written}",
    ]
    found = contents(tmp_path / "results")
    assert found["images"] == list(found["restored"]) == [name for name, *_ in files]
    is_measured = FILES[layout][0][2] is not None
    rows = COMPARED if is_measured else found["images"]
    for name in rows:
        assert any(line.startswith(f"{name} ") for line in said.out.splitlines())
    assert (tmp_path / "results" / "report.html").exists() == is_measured
    assert (tmp_path / "results" / "table.csv").exists() == is_measured


def test_contents_of_the_results(tmp_path, settings, capsys):
    make_pairs(tmp_path)
    config = settings()
    evaluate(config, tmp_path / "results")
    found = contents(tmp_path / "results")
    resolved = {"bit_depth": 8, "metrics": "psnr,ssim,mae"}
    assert found["config"] == config.to_dict() | resolved
    assert len(found["checkpoint_sha256"]) == 64
    assert found["versions"].keys() >= {"vitdeblur_jax", "jax", "flax", "python", "device"}
    assert found["definitions"].keys() == {"psnr", "ssim", "mae"}
    source = Path(config.data_dir) / "input" / "a.png"
    assert found["restored"]["a"]["source"] == [str(source)]
    assert found["restored"]["a"]["target"] == str(source.parents[1] / "ground_truth" / "a.png")
    assert tuple(method["name"] for method in found["methods"]) == COMPARED
    for compared in COMPARED:
        values = [[figures(found)[compared][name][key] for name in "ab"] for key in DEFAULT]
        assert list(means(found)[compared].values()) == pytest.approx(np.mean(values, axis=1))
    said = capsys.readouterr()
    (row,) = [line for line in said.out.splitlines() if line.startswith("saved ")]
    assert f"{means(found)['saved']['psnr']:.3f}" in row.split()
    assert said.err.splitlines()[-1] == f"written: {tmp_path / 'results' / 'report.html'}"


@pytest.mark.parametrize("bits", [8, 16])
def test_score_the_saved_folder_gives_the_figures_of_the_run(tmp_path, settings, bits):
    make_data(tmp_path / "data", FILES["pairs"], np.uint16)
    evaluate(settings(bit_depth=bits), tmp_path / "results")
    found = contents(tmp_path / "results")
    (scored,) = score(tmp_path / "data", "pairs", [Method("a", tmp_path / "results")])["methods"]
    (saved,) = [method for method in found["methods"] if method["name"] == "saved"]
    for key in ("mean", "interval"):
        assert json.loads(json.dumps(scored[key])) == saved[key]
    assert figures({"methods": [scored]})["a"] == figures(found)["saved"]
    assert "evaluate.py" in scored["rule"]


def test_score_nested_scenes_and_two_views(tmp_path, settings, checkpoints):
    for layout, views in (("lfdof", 1), ("dpdd_dual_pixel", 2)):
        make_data(tmp_path / layout, FILES[layout])
        config = settings(
            layout, checkpoint=str(checkpoints[views]), data_dir=str(tmp_path / layout)
        )
        evaluate(config, tmp_path / "results" / layout)
        methods = [Method("a", tmp_path / "results" / layout)]
        (scored,) = score(tmp_path / layout, layout, methods)["methods"]
        expected = means(contents(tmp_path / "results" / layout))["saved"]
        assert scored["mean"] == expected


def test_other_metrics(tmp_path, settings):
    make_pairs(tmp_path)
    config = settings()
    config.metrics = "mae,lpips_squeeze"
    config.metric_weights = str(tmp_path)
    evaluate(config, tmp_path / "results")
    found = contents(tmp_path / "results")
    assert list(found["definitions"]) == ["mae"]
    assert found["notes"][0].startswith("lpips_squeeze is left out")
    config.metrics = "psnr"
    assert "metrics: 'mae,lpips_squeeze' there, 'psnr' here" in refusal(
        config, tmp_path / "results"
    )


def test_metrics_whose_weights_have_come_meanwhile(tmp_path, settings, monkeypatch):
    make_pairs(tmp_path)
    config = settings(metrics="mae,lpips_squeeze", metric_weights=str(tmp_path))
    evaluate(config, tmp_path / "results")
    loaded = lambda *_: (None, ["mae", "lpips_squeeze"], [])  # noqa: E731
    monkeypatch.setattr(preparation, "load_metrics", loaded)
    said = refusal(config, tmp_path / "results")
    assert "measured: mae there, mae, lpips_squeeze here" in said


@pytest.mark.parametrize("bits", [8, 16])
def test_16_bit_data(tmp_path, settings, models, bits):
    images = make_data(tmp_path / "data", FILES["pairs"], np.uint16)
    evaluate(settings(bit_depth=bits), tmp_path / "results")
    for name, (source,), target in FILES["pairs"]:
        pixels = images[source], images[target]
        if bits == 8:
            pixels = [(image >> 8).astype(np.uint8) for image in pixels]
        check_image(tmp_path / "results", name, [pixels[0]], pixels[1], models[1])


def test_identical_images_have_no_number_in_json(tmp_path, settings, capsys):
    for folder in ("source", "target"):
        write_png(tmp_path / "data" / folder / "a.png", noise(0))
    evaluate(settings(), tmp_path / "results")
    found = contents(tmp_path / "results")
    assert figures(found)["input"]["a"] == {"psnr": None, "ssim": 1, "mae": 0}
    assert means(found)["input"]["psnr"] is None
    assert "null" in found["definitions"]["psnr"]["definition"]
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line}
    assert rows["input"][1] == "inf"
    evaluate(settings(), tmp_path / "results")
    assert contents(tmp_path / "results") == found


# Going on after an interruption


def without_seconds(found: dict) -> dict:
    for record in found["restored"].values():
        del record["seconds"]
    return found | {"notes": []}


def test_interrupted_and_started_again(tmp_path, settings, monkeypatch, capsys):
    make_pairs(tmp_path)
    evaluate(settings(), tmp_path / "whole")
    read_pair = run.read_pair

    def interrupted(pair):
        if pair.name == "b":
            raise KeyboardInterrupt
        return read_pair(pair)

    monkeypatch.setattr(run, "read_pair", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(settings(), tmp_path / "halves")
    first = tmp_path / "halves" / "restored" / "a.png"
    os.utime(first, (1, 1))
    assert list(contents(tmp_path / "halves")["restored"]) == ["a"]

    monkeypatch.undo()
    capsys.readouterr()
    evaluate(settings(), tmp_path / "halves")
    said = capsys.readouterr().err.splitlines()
    assert said[1:3] == ["1 of 2 images are done already", "2 of 2: b"]
    assert first.stat().st_mtime == 1
    for name in ("a.png", "b.png"):
        whole, halves = (tmp_path / part / "restored" / name for part in ("whole", "halves"))
        assert whole.read_bytes() == halves.read_bytes()
    whole, halves = (without_seconds(contents(tmp_path / part)) for part in ("whole", "halves"))
    assert json.dumps(whole) == json.dumps(halves).replace(
        str(tmp_path / "halves"), str(tmp_path / "whole")
    )


def test_an_image_that_cannot_be_written_ends_the_run(tmp_path, settings, monkeypatch):
    make_pairs(tmp_path)
    write_image = run.write_image

    def on_full_disk(image, path):
        if path.stem == "b":
            raise UserError(f"{path}: cannot be written (No space left on device)")
        write_image(image, path)

    monkeypatch.setattr(run, "write_image", on_full_disk)
    assert "b.png: cannot be written" in refusal(settings(), tmp_path / "results")
    found = contents(tmp_path / "results")
    assert list(found["restored"]) == ["a"]
    monkeypatch.undo()
    evaluate(settings(), tmp_path / "results")
    assert list(contents(tmp_path / "results")["restored"]) == ["a", "b"]


def test_records_keep_the_order_of_the_data(tmp_path, settings, monkeypatch):
    """The first image is the last one to be written."""
    make_pairs(tmp_path)
    write_image, b_is_recorded, add = run.write_image, threading.Event(), Results.add

    def later(image, path):
        assert path.stem == "b" or b_is_recorded.wait(20)
        write_image(image, path)

    def recording(self, pair, *arguments):
        add(self, pair, *arguments)
        if pair.name == "b":
            b_is_recorded.set()

    monkeypatch.setattr(run, "write_image", later)
    monkeypatch.setattr(run, "measuring_threads", lambda: 2)
    monkeypatch.setattr(Results, "add", recording)
    evaluate(settings(), tmp_path / "results")
    found = contents(tmp_path / "results")
    assert list(found["restored"]) == ["a", "b"]
    assert all(list(method["images"]) == ["a", "b"] for method in found["methods"])


def test_nothing_left_to_do_shows_the_table_again(tmp_path, settings, capsys):
    make_pairs(tmp_path)
    evaluate(settings(), tmp_path / "results")
    found = contents(tmp_path / "results")
    table = capsys.readouterr().out
    evaluate(settings(), tmp_path / "results")
    said = capsys.readouterr()
    assert said.out == table
    assert said.err.splitlines()[1] == "2 of 2 images are done already"
    assert contents(tmp_path / "results") == found


def test_a_deleted_result_is_made_again(tmp_path, settings):
    make_pairs(tmp_path)
    evaluate(settings(), tmp_path / "results")
    restored = tmp_path / "results" / "restored"
    deleted = (restored / "a.png").read_bytes()
    (restored / "a.png").unlink()
    os.utime(restored / "b.png", (1, 1))
    evaluate(settings(), tmp_path / "results")
    assert (restored / "a.png").read_bytes() == deleted
    assert (restored / "b.png").stat().st_mtime == 1


def test_images_that_left_the_data_leave_the_mean(tmp_path, settings):
    make_pairs(tmp_path)
    evaluate(settings(), tmp_path / "results")
    for folder in ("input", "ground_truth"):
        (tmp_path / "data" / folder / "a.png").unlink()
    evaluate(settings(), tmp_path / "results")
    found = contents(tmp_path / "results")
    assert found["images"] == list(found["restored"]) == ["b"]
    assert means(found)["output"] == figures(found)["output"]["b"]


def test_images_that_another_one_displaced_are_made_again(tmp_path, settings, capsys):
    """The files of the report are named by the place of an image."""
    make_pairs(tmp_path)
    first = [tmp_path / "data" / folder / "a.png" for folder in ("input", "ground_truth")]
    kept = [path.read_bytes() for path in first]
    for path in first:
        path.unlink()
    evaluate(settings(), tmp_path / "results")
    for path, data in zip(first, kept, strict=True):
        path.write_bytes(data)
    capsys.readouterr()
    evaluate(settings(), tmp_path / "results")
    assert "has changed; 1 of them are restored again" in capsys.readouterr().err
    for place, path in enumerate((first[1], first[1].with_name("b.png"))):
        shown = read_rgb(tmp_path / "results" / "images" / f"{place}-0.png")
        np.testing.assert_array_equal(shown, as_8_bits(read_rgb(path)))


def test_images_without_targets_are_not_made_again(tmp_path, settings, capsys):
    make_pairs(tmp_path)
    images = tmp_path / "data/input"
    config = settings(data_dir=str(images), layout="images")
    evaluate(config, tmp_path / "results")
    (images / "a.png").unlink()
    capsys.readouterr()
    evaluate(config, tmp_path / "results")
    said = capsys.readouterr().err
    assert "restored again" not in said
    assert "1 of 1 images are done already" in said


def test_control_characters_in_names_are_escaped(tmp_path, settings, capsys):
    make_pairs(tmp_path)
    images = tmp_path / "images"
    images.mkdir()
    (tmp_path / "data/input/a.png").rename(images / "a\x1b]0;title\x07.png")
    evaluate(settings(data_dir=str(images), layout="images"), tmp_path / "results")
    said = "".join(capsys.readouterr())
    assert "\x1b]0;title" not in said
    assert "\\x1b]0;title\\x07" in said


# What it refuses


def refusal(config: ml_collections.ConfigDict, workdir: Path) -> str:
    with pytest.raises(UserError) as caught:
        evaluate(config, workdir)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data_dir": ""}, "--config.data_dir is missing"),
        ({"checkpoint": "nothing"}, "there is no checkpoint 'nothing'"),
        ({"data_dir": "nowhere"}, "nowhere"),
        ({"layout": "pears"}, "did you mean 'pairs'"),
        ({"network": "bass"}, "there is no network 'bass' (did you mean 'base'?)"),
        ({"network": "tiny"}, "1.safetensors is of another network"),
        ({"bit_depth": 12}, "--config.bit_depth is 12; it must be one of 0, 8, 16"),
        ({"dtype": "float16"}, "--config.dtype is 'float16' (did you mean 'bfloat16'?)"),
        ({"precision": "best"}, "precision is 'best'; it must be one of highest, high, default"),
        ({"batch_size": -1}, "--config.batch_size is -1"),
        ({"stride": 37}, "stride is 37"),
    ],
)
def test_wrong_settings_are_told_before_any_work(tmp_path, settings, changes, expected):
    make_pairs(tmp_path)
    config = settings()
    config.update(changes)
    assert expected in refusal(config, tmp_path / "results")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("key", get_config())
def test_a_wrong_value_is_told_by_its_key_before_any_work(tmp_path, settings, key):
    config = settings()
    before = config[key]
    wrong = (math.nan, math.inf, 2**62, 10**30, -1, None, True, b"many", (), ("a",), 1j, {})
    for value in (*wrong, "many") if isinstance(before, int) else wrong:
        with config.unlocked(), config.ignore_type():
            config[key] = value
        assert f"--config.{key} is " in refusal(config, tmp_path / "results")
    with config.unlocked():
        del config[key]
    assert f"the config lacks the key '{key}'" in refusal(config, tmp_path / "results")
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_a_hostile_config_is_told_before_any_work(tmp_path, settings):
    make_pairs(tmp_path)
    write_deep_checkpoint(tmp_path / "deep.safetensors")
    config = settings(checkpoint=str(tmp_path / "deep.safetensors"))
    assert "contextual_encoder.depth is 3000" in refusal(config, tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_an_unknown_key_names_the_nearest(tmp_path, settings):
    config = settings()
    with config.unlocked():
        config.strid = 3
    expected = "the config has no key 'strid' (did you mean 'stride'?)"
    assert expected in refusal(config, tmp_path / "results")


def test_results_of_another_run_are_not_mixed(tmp_path, settings, small, capsys):
    make_pairs(tmp_path)
    config = settings(checkpoint=str(tmp_path / "model.safetensors"))
    save_pretrained(small, config.checkpoint)
    evaluate(config, tmp_path / "results")
    before = contents(tmp_path / "results")
    other = config.copy_and_resolve_references()
    other.update(stride=29, split="train")
    said = refusal(other, tmp_path / "results")
    assert "another run (split: 'test' there, 'train' here, stride: 30 there, 29 here)" in said
    other.network = "gkmnet"  # other statistics with the same weights
    with pytest.raises(UserError, match=r"another run \(network: '' there, 'gkmnet' here"):
        Results.open(tmp_path / "results", other, "", ["a", "b"], DEFAULT)
    save_pretrained(small_pretrained(seed=1), config.checkpoint, overwrite=True)
    assert "another run (other weights)" in refusal(config, tmp_path / "results")
    assert contents(tmp_path / "results") == before


def test_a_training_run_is_no_results_folder(tmp_path, settings):
    make_pairs(tmp_path)
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.json").touch()
    assert "run is the workdir of a training run; choose another" in refusal(settings(), run)
    with pytest.raises(UserError, match="is the workdir of a training run"):
        check_results_folder(run)
    assert sorted(path.name for path in run.iterdir()) == ["checkpoints", "config.json"]


def test_a_run_that_did_nothing_can_be_corrected(tmp_path, settings):
    make_pairs(tmp_path)
    write_png(tmp_path / "data" / "input" / "a.png", np.zeros((3, 3, 3), np.uint8))
    assert "sizes differ" in refusal(settings(), tmp_path / "results")
    assert not (tmp_path / "results").exists()
    write_png(tmp_path / "data" / "input" / "a.png", noise(0))
    evaluate(settings(stride=29), tmp_path / "results")
    assert contents(tmp_path / "results")["config"]["stride"] == 29


def test_one_folder_in_other_words_is_no_other_run(tmp_path, settings, monkeypatch):
    make_pairs(tmp_path)
    evaluate(settings(), tmp_path / "results")
    before = contents(tmp_path / "results")["restored"]
    monkeypatch.chdir(tmp_path)
    for same in ("data", "data/", "./data", f"{tmp_path}/data/"):
        evaluate(settings(data_dir=same), tmp_path / "results")
    assert contents(tmp_path / "results")["restored"].keys() == before.keys()


def test_the_stride_of_the_model_is_recorded_and_a_poor_one_noted(
    tmp_path, settings, small, capsys
):
    make_pairs(tmp_path)
    path = tmp_path / "poor.safetensors"
    model = small.model.clone(tiling=small.model.tiling._replace(stride=28))
    save_pretrained(dataclasses.replace(small, model=model), path)
    evaluate(settings(checkpoint=str(path), stride=0), tmp_path / "results")
    assert contents(tmp_path / "results")["config"]["stride"] == 28
    assert "note: stride 28 is a multiple of 4" in capsys.readouterr().err
    # The weights are the same; the windows would not be.
    said = refusal(settings(stride=0), tmp_path / "results")
    assert "another run (stride: 28 there, 30 here)" in said


def test_pairs_that_do_not_match(tmp_path, settings):
    make_pairs(tmp_path)
    write_png(tmp_path / "data" / "input" / "c.png", noise(0))
    assert "3 in" in refusal(settings(), tmp_path / "results")


def test_a_model_of_two_views_with_single_images(tmp_path, settings, checkpoints):
    make_pairs(tmp_path)
    said = refusal(settings(checkpoint=str(checkpoints[2])), tmp_path / "results")
    assert "2 views, left and right" in said


@pytest.mark.parametrize("text", ["", "{", "[]", '{"images": {}}', '{"restored": {"a": {}}}'])
def test_results_that_cannot_be_read(tmp_path, settings, text):
    make_pairs(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "metrics.json").write_text(text)
    assert "results/metrics.json" in refusal(settings(), tmp_path / "results")
    assert (tmp_path / "results" / "metrics.json").read_text() == text
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["metrics.json"]


def test_a_file_in_place_of_the_results_folder(tmp_path, settings):
    make_pairs(tmp_path)
    (tmp_path / "results").touch()
    assert "results cannot be used" in refusal(settings(), tmp_path / "results")


def test_names_that_are_not_utf8_are_evaluated_and_told(tmp_path, settings, monkeypatch):
    """Standard output is strict, as that of a process with a UTF-8 locale."""
    streams = {name: io.TextIOWrapper(io.BytesIO(), "utf-8") for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    make_data(tmp_path / "data", [("caf\udce9", ["input/caf\udce9.png"], "target/caf\udce9.png")])
    evaluate(settings(), tmp_path / "results")
    assert rb"1 of 1: caf\udce9" in streams["stderr"].buffer.getvalue()
    assert b"saved" in streams["stdout"].buffer.getvalue()
    assert (tmp_path / "results/restored/caf\udce9.png").exists()
