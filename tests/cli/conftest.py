"""Fixtures: a small checkpoint, the command `vitdeblur restore`, and an image."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.restored import PHOTO, STRIDE
from vitdeblur_jax import Pretrained, deblur, load_pretrained, save_pretrained
from vitdeblur_jax.cli.main import main


@pytest.fixture(scope="module")
def checkpoint(small, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
    save_pretrained(small, path)
    return str(path)


@pytest.fixture(scope="module")
def pretrained(checkpoint) -> Pretrained:
    return load_pretrained(checkpoint)


@pytest.fixture(scope="module")
def sharp(pretrained) -> np.ndarray:
    """The restored `PHOTO`."""
    return deblur(PHOTO, pretrained, stride=STRIDE)


@pytest.fixture
def vitdeblur(checkpoint, capsys, tmp_path, monkeypatch):
    """Runs the command in a new folder; returns its exit status and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        options = [] if "--checkpoint" in arguments else ["--checkpoint", checkpoint]
        status = main([*arguments, *options, "--stride", str(STRIDE)])
        return status, capsys.readouterr().err

    return run


@pytest.fixture
def photo(tmp_path) -> Path:
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"
