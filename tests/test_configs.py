import importlib
from pathlib import Path

import pytest

from vitdeblur_jax.errors import UserError
from vitdeblur_jax.training.configuration import check_config

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
    for key in ("data.root", "workdir"):
        assert f"{key}=" in module.__doc__


@pytest.mark.parametrize("name", ["dpdd", "dpdd_dual_pixel", "lfdof"])
def test_a_frozen_encoder_must_be_given(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    with pytest.raises(UserError, match=r"stay random.*initial\.encoder"):
        check_config(config)
