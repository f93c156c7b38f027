"""The weights that come with the package, on the images that come with the project."""

import importlib.util
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.beads import size_of_beads
from vitdeblur_jax import deblur, load_pretrained
from vitdeblur_jax.checkpoints.load_save import BUNDLED_WEIGHTS, bundled_names
from vitdeblur_jax.checkpoints.pretrained import digest
from vitdeblur_jax.cli.main import main
from vitdeblur_jax.data.defocus.settings import SynthesisSettings
from vitdeblur_jax.data.defocus.synthesis import synthesize
from vitdeblur_jax.data.srgb import srgb_to_linear
from vitdeblur_jax.models import named_config
from vitdeblur_jax.models.vitdeblur import published

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "examples/images"


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    error = (image.astype(float) - reference)[8:-8, 8:-8] / 255
    return float(-10 * np.log10((error**2).mean()))


@pytest.fixture(scope="module")
def sharp() -> np.ndarray:
    with Image.open(IMAGES / "sharp/posters.jpg") as image:
        return np.asarray(image.convert("RGB"))[200:400, 300:560]


def test_synthetic_defocus_is_reduced(sharp):
    settings = SynthesisSettings(
        most_layers=1, smooth_share=0.0, focused_share=0.0, large_share=0.0, usual_radius=(3.0, 3.0)
    )
    blurred = synthesize(sharp, settings, np.random.default_rng(0))["blurred"]
    restored = deblur(blurred, load_pretrained())
    assert psnr(restored, sharp) > psnr(blurred, sharp) + 0.5
    # No colour shift: the light that blur spreads stays the same, on average.
    light = [srgb_to_linear(image / 255).mean(axis=(0, 1)) for image in (restored, sharp, blurred)]
    assert 255 * np.abs(light[0] - light[1]).max() < 1.5
    assert 255 * np.abs(light[0] - light[2]).max() < 1.5


@pytest.mark.parametrize("name", bundled_names())
def test_they_fit_their_network(name, tmp_path, monkeypatch):
    copy = shutil.copy(BUNDLED_WEIGHTS / f"{name}.safetensors", tmp_path)
    checked = load_pretrained(copy)
    monkeypatch.setattr(published, "abstract_variables", lambda network: 1 / 0)
    traced_nothing = load_pretrained(name)
    assert digest(traced_nothing.variables) == digest(checked.variables)
    assert traced_nothing.unused.keys() == checked.unused.keys()
    assert traced_nothing.config == checked.config


def test_their_stride_shifts_the_token_grid_from_window_to_window():
    pretrained = load_pretrained()
    tiling = pretrained.model.tiling
    assert math.gcd(tiling.stride, tiling.period) == 1
    expected = named_config("tiny")
    expected.model.decoder.patch_overlap = 4
    assert pretrained.config == expected  # not the tiling and numerics of training


def test_a_restored_slanted_edge_has_few_beads():
    # Earlier weights had 2.28, visible on thin lines and frames, and 1.75, hardly visible.
    assert size_of_beads(load_pretrained()) < 1.75


def test_the_command_uses_them_and_says_so(tmp_path, monkeypatch, capsys, sharp):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(sharp).save("photo.png")
    assert main(["photo.png"]) == 0
    assert capsys.readouterr().err.startswith(
        "checkpoint: the small model that comes with the package, not the authors'"
    )
    with Image.open("photo_restored.png") as restored:
        np.testing.assert_array_equal(np.asarray(restored), deblur(sharp, load_pretrained()))


@pytest.mark.slow
def test_the_picture_of_the_readme_is_what_the_script_draws():
    path = ROOT / "docs/before_after.png"
    assert path.stat().st_size < 500_000
    spec = importlib.util.spec_from_file_location("before_after", ROOT / "examples/before_after.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    with Image.open(path) as picture:
        difference = np.abs(np.asarray(picture).astype(int) - script.draw())
    assert difference.max() <= 2  # other machines round otherwise
