"""The command line of `vitdeblur`: commands, wrong usage, --help."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.cli.restored import pixels, refused
from vitdeblur_jax.cli.main import main, parse
from vitdeblur_jax.evaluation.score import parse_method


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a.png", "--checkpoint", "b", "--stride", "x"],
        ["a.png", "--no"],
        ["convert"],
    ],
)
def test_wrong_usage_is_one_error_line(arguments, capsys):
    said = refused((main(arguments), capsys.readouterr().err))
    assert re.search("; see vitdeblur.* --help$", said.strip())


def test_the_command_name_restore_is_optional(vitdeblur, photo, sharp):
    assert vitdeblur("restore", "photo.png")[0] == 0
    np.testing.assert_array_equal(pixels("photo_restored.png"), sharp)


@pytest.mark.parametrize("command", ["restore", "convert", "export", "data", "score"])
def test_a_folder_with_the_name_of_a_command_gets_a_hint(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    arguments = [command, *(["-o", "out"] if command != "restore" else [])]
    assert "to restore" not in refused((main(arguments), capsys.readouterr().err))
    Path(command).mkdir()
    said = refused((main(arguments), capsys.readouterr().err))
    assert f"type `vitdeblur restore {command}`" in said


def test_help_mentions_everything(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    for word in (
        "--output",
        "--checkpoint",
        "--stride",
        "--batch-size",
        "--force",
        "convert",
        "export",
    ):
        assert word in said
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    said = capsys.readouterr().out
    for word in ("IN", "OUT", "--force", ".pth", ".safetensors", "folder"):
        assert word in said
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    said = capsys.readouterr().out
    for word in ("CHECKPOINT", "OUT", "--platforms", "cpu,cuda,tpu", "--batch-size", "demo"):
        assert word in said


def test_a_tilde_in_an_option_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    options = parse(["~/a.jpg", "~b.jpg", "--output=~/out"])
    assert options.image == ["/home/me/a.jpg", "~b.jpg"]
    assert options.output == "/home/me/out"
    options = parse(["score", "--data=~/d", "--set=pairs", "--out=~/o", "a=~/r"])
    assert (options.data, options.out) == ("/home/me/d", "/home/me/o")
    assert parse_method(options.methods[0]).folder == Path("/home/me/r")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["photo.png", "-o", "gs://bucket/restored/"], "images"),
        (["photo.png", "--change", "s3://bucket/change.png"], "images"),
        (["export", "demo", "gs://bucket/model"], "exported models"),
        (["convert", "demo", "gs://bucket/model"], "checkpoints"),
        (["data", "synthesize", "sharp", "gs://bucket/pairs"], "pairs"),
        (["score", "--data", "pairs", "--set", "pairs", "A=a", "--out", "gs://bucket/a"], "scores"),
    ],
)
def test_results_in_a_bucket_are_refused_before_any_work(
    tmp_path, monkeypatch, capsys, arguments, what
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    (address,) = [argument for argument in arguments if "://" in argument]
    expected = f"error: {address}: {what} are saved on disk; copy the result to that address\n"
    assert capsys.readouterr().err == expected
    assert list(tmp_path.iterdir()) == []
