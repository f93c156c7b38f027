"""What holds for every network of the table, in small configurations.

Each of them is compiled in one default test or more where that is quick; the others are slow. As a
program, `python -m tests.models.test_all_networks NAME ...` takes a training step of the networks
on all devices.
"""

import functools
import importlib
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from tests.published_networks import random_variables
from tests.small_model import small_pretrained
from tests.training.several_processes import on_devices
from vitdeblur_jax import create, load_pretrained, save_pretrained
from vitdeblur_jax.checkpoints.pretrained import Pretrained
from vitdeblur_jax.distributed.sharding import batch_sharded, make_mesh, state_sharding
from vitdeblur_jax.inference.export import export
from vitdeblur_jax.inference.restoration import restore
from vitdeblur_jax.models.aifnet import AIFNet
from vitdeblur_jax.models.dpdnet import DPDNet
from vitdeblur_jax.models.mdp import MDP
from vitdeblur_jax.models.network import params_without_gradient, tiling_of, views_of
from vitdeblur_jax.models.networks import NETWORKS
from vitdeblur_jax.models.tilings import HaloTiles, Windows
from vitdeblur_jax.training.objective import weighted_objective
from vitdeblur_jax.training.state import create_state
from vitdeblur_jax.training.step import compile_train_step

PAIRS = ((4, 4),) * 4
SMALL = {  # changes to each network's configurations; the first one is the network's default
    "dpdnet": {"widths": (8, 8, 8, 8, 8)},
    "aifnet": {
        "encoder_widths": (8, 8, 8, 8, 8),
        "decoder_widths": (2, 2, 2, 2),
        "levels": 3,
        "deblurring_widths": (2, 2, 2, 2),
    },
    "mdp": {"widths": (8, 8, 8, 8, 8)},
    "ifanet": {"widths": (4, 4, 4, 4), "iterations": 2},
    "drbnet": {
        "widths": (4, 4, 4, 4),
        "image_widths": PAIRS,
        "filter_widths": PAIRS,
        "residual_widths": PAIRS,
        "kernel_size": 3,
    },
    "restormer": {"width": 4, "depths": (1, 1, 1), "heads": (1, 2, 2), "refinement_depth": 1},
    "nrknet": {"widths": (3, 4, 5), "num_blurs": 2},
    "gkmnet": {"widths": (2, 3, 4), "num_blurs": 2},
    "kpac": {"width": 8, "rates": (1, 2), "attention_widths": (3, 2)},
}
QUICK = ("dpdnet", "kpac", "mdp")
VARIANTS = (
    *("dpdnet_single", "ifanet_dual", "drbnet_dual", "restormer_dual", "kpac_3level", "kpac_dual"),
    *("nrknet_image_statistics", "gkmnet_running_statistics"),
)


def named(names, quick):
    """Returns the names as parameters; those that are not quick are slow tests."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


every = functools.partial(pytest.mark.parametrize, "name")
each_quick = every(named(NETWORKS, QUICK))


@functools.cache
def pretrained(name: str) -> Pretrained:
    """Returns a network with random variables, by the name of its configuration."""
    if name == "vitdeblur":
        return small_pretrained()
    network = create(name, **SMALL[name.partition("_")[0]])
    variables = random_variables(network)
    if name == "aifnet":  # sigmoids don't saturate
        variables["params"]["encoder_0"]["conv_0"]["kernel"] /= 255
    if isinstance(network, AIFNet | DPDNet | MDP):  # what ReLUs take away
        variables = jax.tree.map(lambda x: 1.4 * x if x.ndim == 4 else x, variables)
    return Pretrained(network, variables, "random")


def image_for(network: nn.Module, batch: int = 1, side: int = 32) -> jax.Array:
    tiling = tiling_of(network)
    side = tiling.size if isinstance(tiling, Windows) else side
    shape = (batch, side, side, 3 * views_of(network))
    return jax.device_put(np.random.default_rng(0).random(shape, np.float32))


def restored(network: nn.Module, variables: dict, image: np.ndarray) -> np.ndarray:
    return np.concatenate(list(restore(network, variables, image)))


def test_every_network_is_tested():
    assert list(NETWORKS) == ["vitdeblur", *SMALL]


@every([*NETWORKS, *named(VARIANTS, ())])
def test_shapes_dtypes_and_stages(name):
    network, variables = pretrained(name).model, pretrained(name).variables
    image = image_for(network, batch=2)
    module = network if name == "vitdeblur" else network.clone(dtype="bfloat16")
    output, state = jax.eval_shape(
        lambda v: module.apply(v, image, capture_intermediates=True), variables
    )
    assert (output.shape, output.dtype) == ((*image.shape[:3], 3), np.float32)
    stages = {path[0] for path in traverse_util.flatten_dict(state["intermediates"])}
    unused = {path[0] for path in params_without_gradient(network, frozenset()) if len(path) == 1}
    assert variables["params"].keys() - unused <= stages
    assert "__call__" in stages


@each_quick
def test_the_gradient_reaches_every_parameter(name):
    network, variables = pretrained(name).model, pretrained(name).variables
    image = image_for(network)

    @jax.jit
    @jax.grad
    def gradient(params):
        output = network.apply({**variables, "params": params}, image)
        return jnp.mean((output - jnp.flip(image[..., :3], 1)) ** 2)

    flat = traverse_util.flatten_dict(jax.device_get(gradient(variables["params"])))
    assert all(np.isfinite(value).all() for value in flat.values())
    heads = params_without_gradient(network, frozenset())
    without = {path for path in flat if any(path[: len(head)] == head for head in heads)}
    assert {path for path, value in flat.items() if not np.any(value)} == without


@each_quick
def test_bfloat16_is_near_float32(name):
    model = pretrained(name)
    if name == "vitdeblur":
        narrow = small_pretrained(dtype="bfloat16").model
    else:
        narrow = model.model.clone(dtype="bfloat16")
    image = image_for(model.model)
    one, other = (
        jax.jit(network.apply)(model.variables, image) for network in (model.model, narrow)
    )
    assert 0 < np.abs(one - other).max() < 0.1 * np.std(one) + 0.02


@pytest.mark.parametrize(
    "ending", [".safetensors", ".pth", pytest.param("", marks=pytest.mark.slow)]
)
@every([*SMALL, *named(VARIANTS, ())])
def test_what_is_saved_is_loaded_exactly(name, ending, tmp_path):
    model = pretrained(name)
    save_pretrained(model, tmp_path / f"a{ending}")
    loaded = load_pretrained(tmp_path / f"a{ending}")
    assert loaded.model == model.model
    one, other = (traverse_util.flatten_dict(m.variables, sep="/") for m in (loaded, model))
    assert one.keys() == other.keys()
    for path, value in one.items():
        np.testing.assert_array_equal(value, other[path], err_msg=path)


@each_quick
def test_odd_sizes_are_extended_by_reflection_and_cropped(name):
    model = pretrained(name)
    tiling, channels = tiling_of(model.model), 3 * views_of(model.model)
    image = np.random.default_rng(0).random((37, 45, channels), np.float32)
    found = restored(model.model, model.variables, image)
    assert found.shape == (37, 45, 3)
    if not isinstance(tiling, Windows):
        padding = [(0, -n % tiling.multiple) for n in image.shape[:2]]
        extended = np.pad(image, [*padding, (0, 0)], mode="reflect")
        expected = jax.jit(model.model.apply)(model.variables, jax.device_put(extended[None]))[
            0, :37, :45
        ]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@every(named(NETWORKS, ("kpac",)))
def test_what_is_exported_restores_the_same(name, tmp_path, monkeypatch):
    model = pretrained(name)
    package = f"exported_{name}"
    export(model, tmp_path / package, platforms=["cpu"])
    monkeypatch.syspath_prepend(tmp_path)
    image = np.random.default_rng(0).random((61, 50, 3 * views_of(model.model)), np.float32)
    found = importlib.import_module(package).load()(image)
    for module in [module for module in sys.modules if module.startswith(package)]:
        monkeypatch.delitem(sys.modules, module)
    expected = restored(model.model, model.variables, image)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


IN_TILES = [
    name
    for name in (*SMALL, *VARIANTS)
    if isinstance(tiling_of(create(name)), HaloTiles) and name not in ("ifanet_dual", "drbnet_dual")
]


@pytest.mark.parametrize("is_tall", [True, False])
@every(named(IN_TILES, ("dpdnet",)))
def test_tiles_equal_the_whole_image(name, is_tall, monkeypatch):
    """Three tiles along one axis. With almost no halo they differ, so the halo counts."""
    model = pretrained(name)
    tiling, multiple = model.model.tiling, model.model.tiling.multiple
    length = 2 * tiling.halo + 5 * multiple
    shape = (length, 2 * multiple) if is_tall else (2 * multiple, length)
    image = np.random.default_rng(0).random((*shape, 3 * views_of(model.model)), np.float32)
    expected = jax.jit(model.model.apply)(model.variables, jax.device_put(image[None]))[0]

    def tiled(halo):
        tiles = HaloTiles(halo, multiple, tile=length // 3 // multiple * multiple)
        if halo == tiling.halo:
            tiles = tiles._replace(tile=multiple)
        monkeypatch.setattr(type(model.model), "tiling", tiles)
        counted = []
        rows = restore(model.model, model.variables, image, on_tiles=counted.append)
        return np.concatenate(list(rows)), sum(counted)

    found, count = tiled(tiling.halo)
    assert count >= 3
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert np.abs(tiled(multiple)[0] - expected).max() > 1e-4


def main(*names):
    assert len(jax.devices()) == 8
    for name in names:
        model = pretrained(name)
        steps = {
            shape: _step(model, make_mesh(*shape, jax.devices()[: np.prod(shape)]))
            for shape in ((1, 1), (4, 2))
        }
        one, other = (traverse_util.flatten_dict(steps[shape], sep="/") for shape in steps)
        before = traverse_util.flatten_dict(model.variables, sep="/")
        assert any(np.any(one[path] != before[path]) for path in one)
        for path, value in one.items():
            change = np.abs(value - before[path]).max()
            atol = 1e-2 * change + 1e-6
            np.testing.assert_allclose(other[path], value, rtol=0, atol=atol, err_msg=path)


def _step(model, mesh):
    """Returns the variables minus the gradient of the loss, computed on a mesh."""
    weights = {"charbonnier": 1.0, **getattr(model.model, "LOSS_TERMS", {})}
    if isinstance(model.model, MDP):  # the others need views
        weights = {"charbonnier": 1.0, "mean_of_views": 0.2}
    step = compile_train_step(
        mesh,
        objective=functools.partial(weighted_objective, model.model, weights),
        optimizer=optax.sgd(1.0),
    )
    images = image_for(model.model, batch=8, side=48)  # SSIM at a quarter of it needs 11
    batch = {"blurred": images, "sharp": images[..., ::-1, :, :3]}
    batch = {name: np.uint8(255 * np.asarray(value)) for name, value in batch.items()}
    variables = jax.tree.map(jnp.copy, model.variables)
    state = create_state(variables, variables["params"], optax.sgd(1.0), with_ema=False)
    state = jax.device_put(state, state_sharding(mesh, state))
    state, metrics = step(state, jax.device_put(batch, batch_sharded(mesh)))
    assert metrics["finite"]
    return jax.device_get(state.variables)


def test_a_step_on_eight_devices_is_that_on_one(tmp_path):
    on_devices(8, ["-m", __name__, "kpac"], tmp_path)


@pytest.mark.slow
def test_a_step_of_every_other_network_on_eight_devices_is_that_on_one(tmp_path):
    on_devices(8, ["-m", __name__, *(name for name in SMALL if name != "kpac")], tmp_path)


if __name__ == "__main__":
    main(*sys.argv[1:])
