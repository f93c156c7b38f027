"""--network: the commands work with a network that is a file in the current folder."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from configs.evaluate import get_config
from tests.cli.restored import PHOTO, pixels, refused
from tests.forked import run_program
from tests.training.small_run import images
from vitdeblur_jax import UserError, create, deblur, load_pretrained, save_pretrained
from vitdeblur_jax.checkpoints.pretrained import Pretrained
from vitdeblur_jax.cli.main import main
from vitdeblur_jax.evaluation import evaluate
from vitdeblur_jax.models.import_network import network_by_name
from vitdeblur_jax.models.network import initial_variables
from vitdeblur_jax.training import default_config
from vitdeblur_jax.training.configuration import check_config

ROOT = Path(__file__).parents[2]
OWN = """
from typing import ClassVar

import flax.linen as nn

from vitdeblur_jax.models.tilings import HaloTiles


class Brighter(nn.Module):
    features: int = 3

    LOSS_TERMS: ClassVar = {"brightness": 0.5}
    tiling: ClassVar = HaloTiles(halo=2, multiple=4, tile=16)

    @nn.compact
    def __call__(self, image):
        return image + nn.Conv(3, (1, 1))(nn.Conv(self.features, (3, 3))(image))

    def training_outputs(self, blurred, sharp, train, terms):
        restored = self(blurred)
        return restored, {name: (restored - sharp).mean((1, 2, 3)) ** 2 for name in terms}


class Nameless(nn.Module):
    features: int


wider, number = Brighter(features=5), 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with `own.py`, which is the current one; returns its instance `wider`."""
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "broken.py").write_text("x = 1\nx / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    yield network_by_name("own:wider")
    for name in ("own", "broken"):
        sys.modules.pop(name, None)


@pytest.fixture
def saved(own) -> Pretrained:
    pretrained = Pretrained(own, initial_variables(own, 0), "own")
    save_pretrained(pretrained, "own.safetensors")
    return pretrained


def test_the_commands_take_the_network(saved, capsys):
    Image.fromarray(PHOTO).save("photo.png")
    network = ["--network", "own:wider"]
    assert main(["photo.png", "-o", "a.png", "--checkpoint", "own.safetensors", *network]) == 0
    np.testing.assert_array_equal(pixels("a.png"), deblur(PHOTO, saved))
    assert main(["convert", "own.safetensors", "folder", *network]) == 0
    again = load_pretrained("folder", "own:wider")
    jax.tree.map(np.testing.assert_array_equal, again.variables, saved.variables)
    assert main(["export", "folder", "exported", "--platforms", "cpu", *network]) == 0
    assert "restored_tiles.exported" in {path.name for path in Path("exported").iterdir()}


def test_a_command_in_its_own_process_finds_the_current_folder(saved, tmp_path):
    arguments = ["-m", "vitdeblur_jax", "convert", "own.safetensors", "folder"]
    done = run_program([*arguments, "--network=own:wider"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "folder" in done.stderr


def test_without_the_network_the_advice_names_the_option(saved, capsys):
    said = refused((main(["convert", "own.safetensors", "folder"]), capsys.readouterr().err))
    assert "of the class 'Brighter'" in said
    assert "--network module:class" in said


def test_evaluation_imports_the_network(saved, tmp_path):
    images(tmp_path / "pairs", 1)
    config = get_config("pairs")
    config.update(checkpoint="own.safetensors", network="own:wider", data_dir="pairs")
    config.metrics = "psnr"
    evaluate(config, "results")
    assert '"own:wider"' in Path("results/metrics.json").read_text()


def test_a_training_config_names_the_network(own):
    config = default_config("own:Brighter")
    config.data.root = "pairs"
    assert config.network == "own:Brighter"
    assert config.loss.brightness == 0.5
    assert type(check_config(config)) is type(own)
    config.network = "own:Missing"
    with pytest.raises(UserError, match=r"own.py has no attribute 'Missing'$"):
        check_config(config)
    with pytest.raises(UserError, match="train was given another one"):
        check_config(config, own)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "own:wide",
            r"^network 'own:wide': .*own\.py has no attribute .wide. .*'wider'\?\)",
        ),
        ("own:number", "an object of type int; it must be a Flax Linen module"),
        ("own:Nameless", "cannot be created without arguments .*'features'"),
        ("owns:wider", "there is no module 'owns'; it must be in the current folder or"),
        ("folder/own.py:wider", "'folder/own.py'; name the module, not the file: folder.own$"),
        ("broken:x", "'broken' cannot be imported, line 2: ZeroDivisionError: division by zero"),
        (":wider", "module '' cannot be imported: ValueError"),
        ("bsae", r"no network 'bsae' \(did you mean 'base'\?\).*your own as module:attribute$"),
    ],
)
def test_a_wrong_name_is_told_in_one_line(own, capsys, name, message):
    with pytest.raises(UserError, match=message):
        network_by_name(name)
    status = main(["convert", "own.safetensors", "folder", "--network", name])
    refused((status, capsys.readouterr().err))


def test_the_name_of_a_configuration_is_a_network():
    assert network_by_name("tiny") == create("tiny")


def test_train_resumes_with_a_network_that_its_config_names(own, tmp_path):
    images(tmp_path / "pairs", 3)
    (tmp_path / "config.py").write_text(
        "from vitdeblur_jax.training import default_config\n"
        "def get_config():\n"
        "    config = default_config('own:Brighter')\n"
        "    config.update(num_steps=1, batch_size=2, crop=20)\n"
        "    config.data.root = 'pairs'\n"
        "    config.optimizer.schedule = 'constant'\n"
        "    config.validation.every = 0\n"
        "    return config\n"
    )
    command = [ROOT / "train.py", "--config=config.py", "--workdir=run"]
    done = run_program(command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "vitdeblur IMAGE --checkpoint run --network own:Brighter" in done.stderr
    done = run_program([*command, "--config.network=own:wider"], tmp_path)
    assert done.returncode == 2
    assert "network" in done.stderr
    assert type(load_pretrained("run", "own:Brighter").model) is type(own)
