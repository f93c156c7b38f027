"""`vitdeblur convert`."""

from pathlib import Path

import jax
import numpy as np
import pytest

from tests.cli.restored import names, refused
from vitdeblur_jax import (
    load_pretrained,
)
from vitdeblur_jax.cli.main import main


@pytest.fixture
def convert(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        return main(["convert", *arguments]), capsys.readouterr().err

    return run


def test_conversions_keep_every_variable(convert, checkpoint, small):
    status, said = convert(checkpoint, "a.pth")
    assert status == 0
    assert said.startswith("written: a.pth\nkept: ")
    for source, destination in (("a.pth", "b"), ("b", "c.safetensors")):
        assert convert(source, destination)[0] == 0
    assert names() == ["a.pth", "b", "c.safetensors"]
    for name in names():
        result = load_pretrained(name)
        assert result.config == small.config
        jax.tree.map(_assert_equal_but_for_rounding, result.variables, small.variables)


def _assert_equal_but_for_rounding(actual, desired):
    """The reference sees BGR: turning the first layer to RGB and back rounds its weights."""
    np.testing.assert_allclose(actual, desired, rtol=0, atol=1e-6)


def test_converting_to_a_folder_lists_the_unused_entries(convert, checkpoint):
    said = convert(checkpoint, "folder")[1]
    assert "\nleft out of the folder: " in said


def test_conversions_overwrite_only_by_force(convert, checkpoint):
    Path("a.pth").write_text("precious")
    assert refused(convert(checkpoint, "a.pth")) == "error: a.pth exists; --force overwrites it\n"
    assert Path("a.pth").read_text() == "precious"
    assert convert(checkpoint, "a.pth", "--force")[0] == 0
    assert len(load_pretrained("a.pth").variables) == 3


@pytest.mark.parametrize(
    ("source", "destination", "expected"),
    [
        (None, "a.onnx", "a.onnx: a checkpoint ends in .safetensors, .pth"),
        (None, "missing/a.pth", "missing/a.pth: there is no folder"),
        ("missing.pth", "a.pth", "there is no checkpoint 'missing.pth'"),
        ("text.pth", "a.pth", "text.pth"),
        ("text.safetensors", "a.pth", "text.safetensors: cannot be read"),
    ],
)
def test_failing_conversions_write_nothing(convert, checkpoint, source, destination, expected):
    for ending in ("pth", "safetensors"):
        Path(f"text.{ending}").write_text("text")
    assert expected in refused(convert(source or checkpoint, destination))
    assert names() == ["text.pth", "text.safetensors"]
