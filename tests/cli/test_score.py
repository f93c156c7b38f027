"""The verb `vitdeblur score`, as a user calls it."""

import json
import sys

import pytest

from tests import made_up_data
from tests.fake_terminal import Terminal
from vitdeblur_jax.cli.main import main


@pytest.fixture
def root(tmp_path):
    made_up_data.pairs(tmp_path / "set")
    return tmp_path / "set"


def test_a_table_is_printed(root, capsys):
    arguments = ["--data", str(root), "--set", "pairs", "--metrics", "psnr,mae"]
    assert main(["score", *arguments, f"A={root / 'blurred'}", f"B={root / 'sharp'}"]) == 0
    said = capsys.readouterr()
    rows = {line.split()[0]: line.split() for line in said.out.splitlines() if line}
    assert rows["B"][1] == "inf"
    assert "3 of 3 images by source names" in said.out
    assert "PSNR in dB" in said.out
    assert "\x1b" not in said.out
    assert [line.split(",")[0] for line in said.err.splitlines()] == ["paired by name"]


def test_on_a_terminal_the_best_is_bold(root, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    arguments = ["--data", str(root), "--set", "pairs"]
    main(["score", *arguments, f"A={root / 'blurred'}", f"B={root / 'sharp'}"])
    assert "\x1b[1minf\x1b[0m" in sys.stdout.getvalue()


def test_files_are_written(root, tmp_path, capsys):
    arguments = ["--data", str(root), "--set", "pairs", "--out", str(tmp_path / "out")]
    assert main(["score", *arguments, f"A:kpac={root / 'blurred'}"]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == f"written: {tmp_path / 'out/report.html'}"
    found = json.loads((tmp_path / "out/metrics.json").read_text())
    assert found["methods"][0]["profile"] == "KPAC"
    assert found["set"] == "pairs"


def test_a_published_evaluation(root, tmp_path, capsys):
    arguments = ["--data", str(root), "--set", "pairs", "--profile", "AIFNet"]
    assert main(["score", *arguments, f"A={root / 'blurred'}", "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out/metrics.json").read_text())
    assert list(found["definitions"]) == ["psnr", "ssim"]  # what its authors' code measures
    note = "profile AIFNet: 8 bits, images cropped to a multiple of 16 from the top left"
    assert found["notes"] == [note]
    assert note in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["A"], "'A' is no NAME=FOLDER"),
        (["A=nowhere"], "nowhere"),
        (["A:kpca=x"], "did you mean 'kpac'"),
        (["A=x", "--metrics", "ssmi"], "did you mean 'ssim'"),
        (
            ["A=x", "--profile", "restomer"],
            "unknown profile 'restomer' (did you mean 'restormer'?)",
        ),
        (["A=x", "--set", "realdoff"], "did you mean 'realdof'"),
    ],
)
def test_invalid_arguments_are_one_error_line(root, arguments, expected, capsys):
    assert main(["score", "--data", str(root), "--set", "pairs", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert expected in said
    assert said.count("\n") == 1


def test_the_inputs_of_lfdof(shared, tmp_path, capsys):
    sample = shared / "data/lfdof_sample"
    arguments = ["score", "--data", str(sample), "--set", "lfdof", "--metrics", "psnr"]
    assert main([*arguments, f"Input={sample / 'input'}"]) == 0
    assert "24.29" in capsys.readouterr().out
    for path in sorted((sample / "input").iterdir())[1:]:
        (tmp_path / path.name).symlink_to(path)
    assert main([*arguments, f"Input={tmp_path}"]) == 2
    assert "IMG_2162" in capsys.readouterr().err
    assert main([*arguments, f"Input={tmp_path}", "--partial"]) == 0
    assert "26.100*" in capsys.readouterr().out
