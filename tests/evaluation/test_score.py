"""Folders of saved images scored over a set, against scikit-image."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from configs.evaluate import get_config
from tests import made_up_data
from tests.evaluation.scikit_image_figures import scikit_image_figures
from tests.made_up_data import random_image, write_png
from vitdeblur_jax.data.image_io import read_rgb
from vitdeblur_jax.data.layouts import find_pairs
from vitdeblur_jax.evaluation import score as score_module
from vitdeblur_jax.evaluation.metrics_json import image_record, write_scores
from vitdeblur_jax.evaluation.profiles import PROFILES, find_profile
from vitdeblur_jax.evaluation.results_folder import Results
from vitdeblur_jax.evaluation.score import Method, parse_method, parse_metrics, score
from vitdeblur_jax.metrics import METRICS
from vitdeblur_jax.utils.errors import UserError

SIZE = (42, 53)
NAMES = ("photo000", "photo001", "photo002")


@pytest.fixture
def root(tmp_path):
    """Three pairs of 8 bits."""
    return make_pairs(tmp_path / "set")


def make_pairs(root, bits=8):
    for i, name in enumerate(NAMES):
        made_up_data.write(root / f"blurred/{name}.png", 2 * i, SIZE, bits)
        made_up_data.write(root / f"sharp/{name}.png", 2 * i + 1, SIZE, bits)
    return root


def save_noise(folder, names=NAMES, seed=100, bits=8):
    """Saves images of noise as a method's, and returns them."""
    images = [random_image(seed + i, SIZE, bits) for i in range(len(names))]
    for name, image in zip(names, images, strict=True):
        write_png(folder / f"{name}.png", image)
    return images


def scikit_image(image, reference):
    return scikit_image_figures(*(x / np.iinfo(x.dtype).max for x in (image, reference)))


def targets(root):
    return [read_rgb(root / f"sharp/{name}.png") for name in NAMES]


def figures(method):
    return [record["metrics"] for record in method["images"].values()]


def refusal(*arguments, **options):
    with pytest.raises(UserError) as caught:
        score(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_figures_are_those_of_scikit_image(root, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    images = [save_noise(folder, seed=seed) for folder, seed in zip(folders, (50, 70), strict=True)]
    scores = score(root, "pairs", [Method(folder.name, folder) for folder in folders])
    assert scores["images"] == list(NAMES)
    for method, saved in zip(scores["methods"], images, strict=True):
        expected = [scikit_image(*both) for both in zip(saved, targets(root), strict=True)]
        for one, other in zip(figures(method), expected, strict=True):
            assert one == pytest.approx(other, rel=1e-6)
        means = {m: np.mean([figure[m] for figure in expected]) for m in expected[0]}
        assert method["mean"] == pytest.approx(means, rel=1e-6)
    assert scores["definitions"]["psnr"]["title"] == METRICS["psnr"].title
    assert len(scores["comparisons"]) == 3


def test_score_says_how_pairs_were_made(tmp_path, capsys):
    for i in (9, 10):
        made_up_data.write(tmp_path / f"set/blurred/b{i}.png", i, SIZE)
        made_up_data.write(tmp_path / f"set/sharp/{i:04}.png", i, SIZE)
    save_noise(tmp_path / "a", ("b9", "b10"))
    score(tmp_path / "set", "pairs", [Method("a", tmp_path / "a")])
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "paired by name, first: b9 <-> 0009, last: b10 <-> 0010"


def test_depths(tmp_path):
    """16 bits are compared with all 16 of the target, 8 bits with its upper 8."""
    root = make_pairs(tmp_path / "set", bits=16)
    deep, shallow = (save_noise(tmp_path / str(bits), bits=bits) for bits in (16, 8))
    methods = [Method(str(bits), tmp_path / str(bits)) for bits in (16, 8)]
    first, second = score(root, "pairs", methods)["methods"]
    whole = targets(root)
    upper = [(target >> 8).astype(np.uint8) for target in whole]
    for method, images, sharp in ((first, deep, whole), (second, shallow, upper)):
        for one, *pair in zip(figures(method), images, sharp, strict=True):
            assert one == pytest.approx(scikit_image(*pair), rel=1e-6)


def test_cropped_and_padded_images(root, tmp_path):
    """What each system cuts off is not compared; what it adds is cut back."""
    blurred = [read_rgb(root / f"blurred/{name}.png") for name in NAMES]
    for i, (name, image) in enumerate(zip(NAMES, blurred, strict=True)):
        write_png(tmp_path / f"AIFNet/out_aif/{name}.png", image[:32, :48])
        write_png(tmp_path / f"IFANet/{i + 1:02}.png", image[:40, :48])
        around = np.pad(image, ((3, 3), (5, 6), (0, 0)), mode="reflect")
        write_png(tmp_path / f"NRKNet/{i:04}.png", around)
        below = np.pad(image, ((0, 6), (0, 11), (0, 0)), mode="reflect")
        write_png(tmp_path / f"ViTDeblur/{name}_recover.png", below)
    systems = ("AIFNet", "IFANet", "NRKNet", "ViTDeblur")
    scores = score(root, "pairs", [Method(name, tmp_path / name) for name in systems])
    cropped = {"AIFNet": (32, 48), "IFANet": (40, 48)}
    for method in scores["methods"]:
        height, width = cropped.get(method["name"], SIZE)
        for one, *pair in zip(figures(method), blurred, targets(root), strict=True):
            image, sharp = (x[:height, :width] for x in pair)
            assert one == pytest.approx(scikit_image(image, sharp), rel=1e-6)
        word = "cropped" if method["name"] in cropped else "padded"
        assert f"3 of 3 {word} to a multiple of" in method["rule"]
        notes = {record["size_note"] for record in method["images"].values()}
        assert all(note.startswith(word) for note in notes)


def test_a_size_that_nothing_explains(root, tmp_path):
    save_noise(tmp_path / "saved")
    write_png(tmp_path / "saved/photo001.png", random_image(0, (21, 26)))
    said = refusal(root, "pairs", [Method("Half", tmp_path / "saved")])
    assert "photo001.png is 26 x 21, its target 53 x 42" in said


def test_the_sources_name_with_another_systems_size(root, tmp_path):
    """A padded image under the source's name could be padded in two ways: it must be said which."""
    for name in NAMES:
        padded = np.pad(read_rgb(root / f"blurred/{name}.png"), ((0, 6), (0, 11), (0, 0)))
        write_png(tmp_path / f"saved/{name}.png", padded)
    assert "no cropping or padding" in refusal(root, "pairs", [Method("X", tmp_path / "saved")])


def test_one_image_is_missing(root, tmp_path):
    save_noise(tmp_path / "saved", [f"{name}_recover" for name in NAMES])
    (tmp_path / "saved/photo001_recover.png").unlink()
    methods = [Method("ours", tmp_path / "saved")]
    said = refusal(root, "pairs", methods)
    assert "lacks 1 of 3 images: photo001_recover; --partial" in said
    (method,) = score(root, "pairs", methods, partial=True)["methods"]
    assert method["partial"]
    assert method["missing"] == ["photo001"]
    assert list(method["images"]) == ["photo000", "photo002"]


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n"])
def test_a_damaged_image_is_named(root, tmp_path, content):
    save_noise(tmp_path / "saved")
    (tmp_path / "saved/photo002.png").write_bytes(content)
    assert "photo002.png" in refusal(root, "pairs", [Method("a", tmp_path / "saved")])


def test_images_smaller_than_the_window_of_a_metric(tmp_path):
    for folder in ("set/input", "set/target", "saved"):
        write_png(tmp_path / folder / "dot.png", random_image(0, (1, 1)))
    methods = [Method("a", tmp_path / "saved")]
    said = refusal(tmp_path / "set", "pairs", methods)
    assert re.search(r"dot.png: SSIM needs at least 7 x 7 pixels", said)
    (method,) = score(tmp_path / "set", "pairs", methods, ["psnr", "mae"])["methods"]
    assert method["mean"] == {"psnr": None, "mae": 0}


def test_hostile_names(tmp_path):
    name = 'a "b" <i>&\n;\'ñ'
    for folder in ("set/input", "set/target"):
        write_png(tmp_path / folder / f"{name}.png", random_image(0, SIZE))
    write_png(tmp_path / f"saved\n/{name}_p.png", random_image(1, SIZE))
    scores = score(tmp_path / "set", "pairs", [Method("<x>\n", tmp_path / "saved\n")])
    assert list(scores["methods"][0]["images"]) == [name]
    (tmp_path / f"saved\n/{name}_p.png").write_bytes(b"")
    refusal(tmp_path / "set", "pairs", [Method("<x>\n", tmp_path / "saved\n")])
    (tmp_path / f"saved\n/{name}_p.png").rename(tmp_path / "saved\n/other\n.png")
    refusal(tmp_path / "set", "pairs", [Method("<x>\n", tmp_path / "saved\n")])


# Subsets and published figures


@pytest.fixture
def dpdd(tmp_path):
    made_up_data.dpdd(tmp_path / "set", counts={"test": 4})
    return tmp_path / "set"


def test_indoor_and_outdoor(dpdd):
    np.save(dpdd / "test_c/indoor_labels.npy", np.array([1.0, 3.0]))
    np.save(dpdd / "outdoor_labels.npy", np.array([[2], [4]]))
    (method,) = score(dpdd, "dpdd", [Method("input", dpdd / "test_c/source")])["methods"]
    psnr = [figure["psnr"] for figure in figures(method)]
    assert method["subsets"]["indoor"]["psnr"] == pytest.approx(np.mean(psnr[::2]))
    assert method["subsets"]["outdoor"]["psnr"] == pytest.approx(np.mean(psnr[1::2]))


def test_labels_of_the_test_split_say_nothing_of_another(tmp_path):
    made_up_data.dpdd(tmp_path, counts={"test": 4, "train": 5})
    np.save(tmp_path / "indoor_labels.npy", np.array([1, 3]))
    methods = [Method("input", tmp_path / "train_c/source")]
    (method,) = score(tmp_path, "dpdd", methods, split="train")["methods"]
    assert len(method["images"]) == 5
    assert not method["subsets"]


@pytest.mark.parametrize("labels", [[0, 1], [5], [1.5], [np.nan], ["a"]])
def test_labels_that_mean_nothing(dpdd, labels):
    np.save(dpdd / "indoor_labels.npy", np.array(labels))
    assert "indoor_labels.npy" in refusal(dpdd, "dpdd", [Method("input", dpdd / "test_c/source")])


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"text"])
def test_labels_that_cannot_be_read(dpdd, content):
    (dpdd / "indoor_labels.npy").write_bytes(content)
    assert "indoor_labels.npy" in refusal(dpdd, "dpdd", [Method("input", dpdd / "test_c/source")])


def test_published_figures(dpdd):
    source = dpdd / "test_c/source"
    methods = [Method("Input", source), Method("mine", source, find_profile("kpac"))]
    scores = score(dpdd, "dpdd", methods, published=True)
    assert scores["published"]["Input"] == {"psnr": 23.89, "ssim": 0.725}
    assert scores["published"]["mine"] == {"psnr": 25.221, "ssim": 0.774}
    assert scores["published"]["ViTDeblur"] == {"psnr": 26.114, "ssim": 0.814}
    assert len(scores["published"]) == 11
    assert any("over 76 images, these over 4" in note for note in scores["notes"])
    assert any("Liang" in note for note in scores["notes"])


def test_nothing_was_published_for_other_sets(root, dpdd):
    assert "--published" in refusal(root, "pairs", [Method("a", root / "blurred")], published=True)
    made_up_data.dpdd(dpdd, counts={"val": 2})
    methods = [Method("a", dpdd / "val_c/source")]
    assert "val split" in refusal(dpdd, "dpdd", methods, split="val", published=True)


# What is asked for


def test_methods_are_read():
    assert parse_method("a=b") == Method("a", score_module.Path("b"))
    assert parse_method("a=b=c") == Method("a", score_module.Path("b=c"))
    assert parse_method("a:NRKnet=b:c") == ("a", score_module.Path("b:c"), find_profile("NRKNet"))
    for text in ("", "a", "=b", "a=", ":kpac=b"):
        with pytest.raises(UserError, match="NAME=FOLDER"):
            parse_method(text)
    with pytest.raises(UserError, match="did you mean 'restormer'"):
        parse_method("a:restorer=b")


def test_metrics_are_read():
    assert parse_metrics("mae, psnr") == ["mae", "psnr"]
    assert parse_metrics("all") == list(METRICS)
    with pytest.raises(UserError, match="did you mean 'psnr'"):
        parse_metrics("psn")
    with pytest.raises(UserError, match="twice"):
        parse_metrics("psnr,psnr")


def test_what_is_refused(root, tmp_path):
    methods = [Method("a", root / "blurred")]
    assert "'a' is there twice" in refusal(root, "pairs", methods * 2)
    assert "did you mean 'pairs'" in refusal(root, "pears", methods)
    assert "not a folder" in refusal(tmp_path / "nowhere", "pairs", methods)
    (tmp_path / "file").touch()
    assert "file" in refusal(root, "pairs", methods, out=tmp_path / "file")


def test_a_metric_without_its_weights_is_left_out(root, tmp_path):
    methods = [Method("a", root / "blurred")]
    scores = score(root, "pairs", methods, ["mae", "lpips_squeeze"], weights_folder=tmp_path)
    assert list(scores["definitions"]) == ["mae"]
    assert scores["notes"][0].startswith("lpips_squeeze is left out")
    said = refusal(root, "pairs", methods, ["lpips_squeeze"], weights_folder=tmp_path)
    assert said.startswith("no metric is left: lpips_squeeze")


def test_images_for_the_report(root, tmp_path, monkeypatch):
    drawn = {}

    def add_image(folder, image, method, pixels, target):
        drawn[image, method] = (pixels, target)

    monkeypatch.setattr(score_module, "add_image", add_image)
    saved = save_noise(tmp_path / "a")
    (tmp_path / "a/photo001.png").unlink()
    methods = [Method("blurred", root / "blurred"), Method("a", tmp_path / "a")]
    score(root, "pairs", methods, partial=True, out=tmp_path / "out")
    assert set(drawn) == {(i, m) for i in range(3) for m in range(3)} - {(1, 2)}
    np.testing.assert_array_equal(drawn[2, 2][0], saved[2])
    np.testing.assert_array_equal(drawn[2, 2][1], targets(root)[2])
    assert drawn[2, 0][1] is None


def test_files(root, tmp_path):
    out = tmp_path / "new/out"
    scores = score(root, "pairs", [Method("a", root / "blurred")], out=out)
    assert write_scores(out, scores) == out / "report.html"
    assert {path.name for path in out.iterdir() if path.is_file()} == {
        *("metrics.json", "table.csv", "images.csv", "table.md", "table.tex", "report.html"),
    }


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("metrics.json", '{"checkpoint_sha256": "", "restored": {}}', "workdir of an evaluate.py"),
        ("metrics.json", '{"accuracy": 0.9}', "is not from an earlier `vitdeblur score`"),
        ("table.tex", "mine", "is not from an earlier `vitdeblur score`"),
    ],
)
def test_results_that_are_not_of_score_are_not_overwritten(root, tmp_path, name, text, expected):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text(text)
    assert expected in refusal(root, "pairs", [Method("a", root / "blurred")], out=out)
    assert (out / name).read_text() == text
    assert [path.name for path in out.iterdir()] == [name]


def test_results_of_score_are_written_anew_and_are_no_run_of_evaluate(root, tmp_path):
    out, method = tmp_path / "out", Method("a", root / "blurred")
    for metrics in (["psnr"], ["mae"]):
        write_scores(out, score(root, "pairs", [method], metrics, out=out))
    assert list(json.loads((out / "metrics.json").read_text())["definitions"]) == ["mae"]
    with pytest.raises(UserError, match=r"metrics\.json is not from an evaluate\.py run"):
        Results.open(out, get_config("pairs"), "", NAMES, ["psnr"])
    assert not (out / "restored").exists()


def test_a_report_never_shows_the_images_of_another_call(root, tmp_path):
    out, method = tmp_path / "out", Method("a", root / "blurred")
    write_scores(out, score(root, "pairs", [method], out=out))
    other = tmp_path / "other"
    shutil.copytree(root / "blurred", other)
    sorted(other.iterdir())[-1].write_bytes(b"damaged")
    with pytest.raises(UserError, match="other"):
        score(root, "pairs", [Method("b", other)], out=out)
    assert not (out / "report.html").exists()
    assert (out / "metrics.json").exists()


# Real images


def test_the_inputs_of_lfdof_saved_as_each_system_would(shared, tmp_path):
    sample = shared / "data/lfdof_sample"
    pairs = find_pairs(sample, "lfdof")
    for profile in PROFILES:
        for index, pair in enumerate(pairs):
            name = profile.names[0].format(
                **dict.fromkeys(("source", "path", "target", "name"), pair.name),
                index=index,
                number=index + 1,
                suffix="SwinIR",
            )
            path = tmp_path / profile.system / profile.folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(pair.source[0], path)
    methods = [Method(one.system, tmp_path / one.system) for one in PROFILES]
    scores = score(sample, "lfdof", methods, ["psnr"])
    for method in scores["methods"]:
        assert method["mean"]["psnr"] == pytest.approx(24.2943, abs=1e-4)
        assert method["name"] in method["rule"]
        assert "multiple" not in method["rule"]  # 1008 x 688 is one of 16 already


def test_a_figure_that_is_nan_is_never_told_as_infinite():
    with pytest.raises(UserError, match="NaN"):
        image_record("a.png", "", {"psnr": float("nan")})
    assert image_record("a.png", "", {"psnr": float("inf")})["metrics"] == {"psnr": None}


def test_files_that_cannot_hold_what_was_restored_are_noted(tmp_path):
    made = {"1.jpg": "RGB", "2.png": "L", "3.png": "RGBA", "4.png": "RGB"}
    for number, (name, mode) in enumerate(made.items()):
        for part in ("input", "target"):
            write_png(tmp_path / f"data/{part}/{name[0]}.png", random_image(number))
        (tmp_path / "method").mkdir(exist_ok=True)
        image = Image.fromarray(random_image(number)).convert(mode)
        image.save(tmp_path / "method" / name)
    scores = score(tmp_path / "data", "pairs", [Method("m", tmp_path / "method")], ["mae"])
    assert scores["methods"][0]["notes"] == [
        "1 of 4 saved as JPEG: its losses are measured, too",
        "1 of 4 gray, which the targets are not",
        "1 of 4 with transparency, which is left out",
    ]
    assert set(scores["methods"][0]["images"]["1"]) == {"file", "size_note", "metrics"}


def test_a_name_that_nothing_comes_near_is_told_without_a_guess():
    with pytest.raises(UserError, match=r"unknown metric 'xyz'; there are psnr"):
        parse_metrics("xyz")
    with pytest.raises(UserError, match=r"',' names no metric; there are psnr"):
        parse_metrics(",")
    assert parse_metrics("psnr, ssim,") == ["psnr", "ssim"]
