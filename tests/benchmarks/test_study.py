"""The study of recipes: its variants can be trained, and its U-Net is what its docstring says."""

import json

import jax
import numpy as np
import pytest

from benchmarks.study import validations
from benchmarks.study_networks import ResidualGKMNet, UNet
from configs.study import STEPS, get_config
from vitdeblur_jax import Pretrained, deblur
from vitdeblur_jax.models import initial_variables
from vitdeblur_jax.models.network import restored_images
from vitdeblur_jax.training.configuration import check_config
from vitdeblur_jax.utils.errors import UserError


@pytest.mark.parametrize("variant", STEPS)
def test_variants(variant):
    config = get_config(variant)
    config.data.root = "IMAGES"
    check_config(config)
    assert config.num_steps == STEPS[variant]
    changed = {stage[0] for stage in config.progressive}
    assert all(0 < step < config.num_steps for step in changed)


def test_unknown_variant():
    message = r"unknown variant of the study 'presnt' .did you mean 'present'"
    with pytest.raises(UserError, match=message):
        get_config("presnt")


def test_the_networks_start_as_the_identity():
    image = np.random.default_rng(0).random((1, 32, 32, 3), np.float32)
    unet = UNet(widths=(4, 4, 4), depth=1)
    variables = initial_variables(unet, 0)
    restored = jax.jit(restored_images, static_argnums=0)(unet, variables, image)
    np.testing.assert_array_equal(restored, image)
    last = {"kernel": np.ones((1, 1, 2, 3)), "bias": np.ones(3)}
    variables = {"params": {"network": {"first": np.ones(2), "sum": last}}}
    network = ResidualGKMNet().initialized(variables, {})["params"]["network"]
    assert not any(np.any(leaf) for leaf in network["sum"].values())
    np.testing.assert_array_equal(network["first"], np.ones(2))


@pytest.mark.slow
def test_tiles_of_the_unet_equal_the_whole_image():
    rng = np.random.default_rng(0)
    image = rng.random((400, 24, 3), np.float32)
    unet = UNet(widths=(4, 4, 4))
    variables = initial_variables(unet, 0)
    variables["params"] = jax.tree.map(
        lambda x: x + 0.2 * rng.standard_normal(x.shape, np.float32), variables["params"]
    )
    whole = restored_images(unet, variables, image[None])[0]

    def difference(halo):
        network = unet.clone(tiling=unet.tiling._replace(tile=64, halo=halo))
        return np.abs(deblur(image, Pretrained(network, variables, "random")) - whole).max()

    assert difference(unet.tiling.halo) < 1e-5 * np.abs(whole).max()
    assert difference(unet.tiling.halo // 2) > 1e-4 * np.abs(whole).max()


def test_validations_of_a_log(tmp_path):
    records = [{"kind": "validation", "set/psnr": 20.0}, {"kind": "train", "step": 1}]
    (tmp_path / "log.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in records))
    assert validations(tmp_path) == [{"kind": "validation", "psnr": 20.0}]
    assert validations(tmp_path / "none") == []
