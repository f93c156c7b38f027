"""The verbs of `vitdeblur data`, on small made-up folders."""

import json

import numpy as np
import pytest

from vitdeblur_jax.cli.main import main
from vitdeblur_jax.data.image_io import DecodedImage, read_rgb, write_image
from vitdeblur_jax.data.layouts import find_pairs
from vitdeblur_jax.data.sources import FolderSource, PreparedSource


@pytest.fixture
def pairs(tmp_path):
    """A folder with three pairs of images."""
    rng = np.random.default_rng(0)
    for side in ("input", "target"):
        (tmp_path / "set" / side).mkdir(parents=True)
        for name in "abc":
            pixels = rng.integers(0, 256, (40, 50, 3), np.uint8)
            write_image(DecodedImage(pixels), tmp_path / "set" / side / f"{name}.png")
    return tmp_path / "set"


def test_check_reports_problems(pairs, capsys):
    assert main(["data", "check", str(pairs)]) == 0
    assert "no errors" in capsys.readouterr().out
    (pairs / "input" / "b.png").write_bytes(b"text")
    assert main(["data", "check", str(pairs)]) == 1
    assert "b.png" in capsys.readouterr().out
    assert main(["data", "check", str(pairs), "--names-only"]) == 0
    capsys.readouterr()
    assert main(["data", "check", str(pairs), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["whole"] is False


def test_check_of_a_missing_folder_is_an_error(tmp_path, capsys):
    assert main(["data", "check", str(tmp_path / "nothing")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1


def test_synthesize_then_prepare_then_read(pairs, tmp_path, capsys):
    sharp, out = pairs / "target", tmp_path / "synthetic"
    assert main(["data", "synthesize", str(sharp), str(out), "--seed", "3"]) == 0
    first = read_rgb(out / "input" / "a.png")
    np.testing.assert_array_equal(read_rgb(out / "target" / "a.png"), read_rgb(sharp / "a.png"))
    assert main(["data", "synthesize", str(sharp), str(out)]) == 2
    assert main(["data", "synthesize", str(sharp), str(out), "--seed", "3", "--force"]) == 0
    np.testing.assert_array_equal(read_rgb(out / "input" / "a.png"), first)

    records = tmp_path / "records"
    assert main(["data", "prepare", str(out), str(records)]) == 0
    *_, written, train_with = capsys.readouterr().err.strip().splitlines()
    written = written.removeprefix("written: ")
    flags = train_with.removeprefix("train with: ").replace("--config.", "").split()
    assert flags[:2] == ["data.kind=prepared", f"data.root={written}"]
    assert flags[2:] == ["data.hold_out=0", "validation.every=0"]
    prepared = PreparedSource(written, "train")
    plain = FolderSource(find_pairs(out, "pairs"))
    assert len(prepared) == len(plain) == 3
    for one, other in zip(prepared, plain, strict=True):
        assert one["name"] == other["name"]
        np.testing.assert_array_equal(one["blurred"], other["blurred"])
        np.testing.assert_array_equal(one["sharp"], other["sharp"])


def test_synthesize_never_overwrites_its_inputs(pairs, capsys):
    sharp = pairs / "target"
    before = (sharp / "a.png").read_bytes()
    for flags in ([], ["--force"]):
        assert main(["data", "synthesize", str(sharp), str(pairs), *flags]) == 2
        assert "a.png is an input, and would be overwritten" in capsys.readouterr().err
    assert (sharp / "a.png").read_bytes() == before


def test_synthesize_refuses_a_negative_seed_before_any_work(pairs, tmp_path, capsys):
    out = tmp_path / "synthetic"
    assert main(["data", "synthesize", str(pairs / "target"), str(out), "--seed", "-1"]) == 2
    assert capsys.readouterr().err == "error: the seed is -1; it must be 0 or more\n"
    assert not out.exists()


def test_preparing_an_unknown_set_names_the_nearest(pairs, tmp_path, capsys):
    arguments = ["data", "prepare", str(pairs), str(tmp_path / "out"), "--set", "realdoff"]
    assert main(arguments) == 2
    assert "realdof" in capsys.readouterr().err
