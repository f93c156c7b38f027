import importlib
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from flax import traverse_util

from configs import demo
from vitdeblur_jax.checkpoints.load_save import load_pretrained
from vitdeblur_jax.checkpoints.pretrained import digest
from vitdeblur_jax.distributed.sharding import local_mesh
from vitdeblur_jax.models import abstract_variables, create_network, named_config
from vitdeblur_jax.training import train
from vitdeblur_jax.training.configuration import check_config
from vitdeblur_jax.training.lr_mults import frozen_by_lr_mults, scale_by_lr_mults
from vitdeblur_jax.training.preparation import prepare
from vitdeblur_jax.utils.errors import UserError

_ENCODERS = ("tokenizer", "primary_encoder")
CONFIGS = Path(__file__).parents[1] / "configs"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.py") if path.stem != "evaluate")


@pytest.mark.parametrize("name", NAMES)
def test_a_config_can_be_used_and_tells_how(name):
    module = importlib.import_module(f"configs.{name}")
    config = module.get_config()
    if "--config.initial.encoder=" in module.__doc__:
        config.initial.encoder = "given on the command line"
    check_config(config)
    assert f"python train.py --config=configs/{name}.py" in module.__doc__
    assert "--workdir=" in module.__doc__
    # The first run alone brings its images.
    roots = [f"data.sets.{name}.root" for name in config.data.sets] or ["data.root"]
    given = [root for root in roots if f"--config.{root}=" in module.__doc__]
    assert given == ([] if config.data.root else roots)
    assert bool(config.data.root) == (name == "first_run")


@pytest.mark.parametrize("run", list(demo.RUNS)[1:])
def test_a_later_run_of_the_bundled_model_starts_from_a_checkpoint(run):
    config = demo.get_config(f"{run},BEFORE")
    check_config(config)
    assert config.initial.checkpoint == "BEFORE"
    assert not config.initial.identity_init
    with pytest.raises(UserError, match=f"the {run} run starts from a checkpoint"):
        demo.get_config(run)
    with pytest.raises(UserError, match=r"unknown run .*there are first, second"):
        demo.get_config("BEFORE")


def test_drbnet_is_fine_tuned_from_its_first_run():
    config = importlib.import_module("configs.drbnet").get_config("FIRST")
    check_config(config)
    assert config.initial.checkpoint == "FIRST"
    assert config.data.layout == "dpdd"


@pytest.mark.parametrize("name", ["dpdd", "dpdd_dual_pixel", "lfdof"])
def test_a_frozen_encoder_must_be_given(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    with pytest.raises(UserError, match=r"random values.*initial\.checkpoint"):
        prepare(config, create_network(config), local_mesh())


def test_the_last_layers_of_the_tiny_model_train_at_lower_rates():
    lr_mults = importlib.import_module("configs.tiny").get_config().optimizer.lr_mults
    params = abstract_variables(create_network(named_config("tiny")))["params"]
    assert frozen_by_lr_mults(params, lr_mults) == ()
    ones = jax.tree.map(lambda leaf: np.ones((), leaf.dtype), params)
    updates, _ = scale_by_lr_mults(lr_mults).update(ones, optax.EmptyState())
    low = {"decoder/prediction": 0.0225, "image_head": 0.00125}
    for path, update in traverse_util.flatten_dict(updates, sep="/").items():
        expected = [rate for module, rate in low.items() if path.startswith(f"{module}/")]
        assert update == pytest.approx(*expected or [1], rel=1e-6)


def test_the_published_recipe_freezes_tokenizer_and_primary_encoder():
    lr_mults = importlib.import_module("configs.dpdd").get_config().optimizer.lr_mults
    params = abstract_variables(create_network(named_config("tiny")))["params"]
    frozen = {path for path in traverse_util.flatten_dict(params) if path[0] in _ENCODERS}
    assert set(frozen_by_lr_mults(params, lr_mults)) == frozen


@pytest.mark.slow
def test_the_first_run_goes_through_from_any_folder(tmp_path, monkeypatch, capfd):
    config = importlib.import_module("configs.first_run").get_config()
    config.update(num_steps=4, log_every=2, save_every=4)
    config.optimizer.warmup_steps = 2
    config.validation.every = 4
    monkeypatch.chdir(tmp_path)
    assert train(config, "run") == 0
    *_, picture, restore, images, dpdd = capfd.readouterr().err.splitlines()
    assert (tmp_path / picture.split(": ")[0]).is_file()
    assert restore == "to restore an image: vitdeblur IMAGE --checkpoint run"
    assert "configs/tiny.py" in images
    assert "configs/dpdd.py" in dpdd


@pytest.mark.slow
def test_the_recipe_of_the_bundled_model_gives_the_same_weights_twice(tmp_path):
    config = demo.get_config()
    config.update(num_steps=20, batch_size=2)
    config.data.update(root=str(CONFIGS.parent / "examples/images/sharp"), hold_out=1)
    config.optimizer.warmup_steps = 5
    config.validation.every = 0
    digests = []
    for name in ("one", "other"):
        assert train(config, tmp_path / name) == 0
        digests.append(digest(load_pretrained(tmp_path / name).variables))
    assert digests[0] == digests[1]
