"""A network that the package does not know goes through everything that the package does."""

import dataclasses
import functools
import importlib
import json
import signal
import sys
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from configs.evaluate import get_config
from tests.training.same_run import RATES, lines
from tests.training.small_run import after_step, images
from tests.training.test_loop import send
from vitdeblur_jax import UserError, deblur, load_pretrained, save_pretrained
from vitdeblur_jax.checkpoints.pretrained import Pretrained, check_pretrained
from vitdeblur_jax.evaluation import evaluate
from vitdeblur_jax.inference.export import export
from vitdeblur_jax.inference.restoration import restore
from vitdeblur_jax.inference.self_ensemble import symmetries
from vitdeblur_jax.models.network import initial_variables, with_numerics
from vitdeblur_jax.models.network_checks import check_is_instance
from vitdeblur_jax.models.tilings import HaloTiles, WholeImage
from vitdeblur_jax.training import default_config, train
from vitdeblur_jax.training.configuration import check_config
from vitdeblur_jax.training.initialization import given_variables
from vitdeblur_jax.training.log import TrainingLog
from vitdeblur_jax.training.objective_checks import RESERVED_TERMS


class OwnNetwork(nn.Module):
    """Has batch norm, dropout, a loss term and a tiling of its own."""

    features: int = 4
    dtype: str = "float32"

    tiling: ClassVar[HaloTiles] = HaloTiles(halo=4, multiple=4, tile=16)
    LOSS_TERMS: ClassVar = {"brightness": 0.5}

    @nn.compact
    def __call__(self, image, train=False):
        conv = functools.partial(nn.Conv, dtype=self.dtype)
        x = conv(self.features, (5, 5), strides=2)(image)
        x = nn.Dropout(0.5, deterministic=not train)(nn.relu(x))
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = x.repeat(2, axis=1).repeat(2, axis=2)
        return image + conv(3, (1, 1))(x).astype(jnp.float32)

    def training_outputs(self, blurred, sharp, train, terms):
        restored = self(blurred, train)
        brightness = jnp.abs((restored - sharp).mean(axis=(1, 2, 3)))
        return restored, {"brightness": brightness} if terms else {}


def own_config(root, **changes):
    config = default_config(OwnNetwork())
    config.update(num_steps=4, batch_size=2, crop=20, log_every=1, save_every=2)
    config.data.update(root=str(root))
    config.optimizer.update(learning_rate=1e-2, schedule="constant")
    config.validation.update(every=4, num_images=1, root=str(root / "val"))
    config.update(changes)
    return config


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    root = images(tmp_path_factory.mktemp("pairs"), count=24)
    images(root / "val", 1, first=24)
    return root


@pytest.fixture(scope="module")
def trained(pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    assert train(own_config(pairs), folder, network=OwnNetwork()) == 0
    return folder


@pytest.fixture(scope="module")
def pretrained():
    network = OwnNetwork()
    variables = initial_variables(network, 0)
    rng = np.random.default_rng(0)
    return Pretrained(
        network, jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape), variables), "own"
    )


def test_a_stopped_run_resumes_bit_for_bit(pairs, trained, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop = after_step(3, functools.partial(send, signal.SIGINT))
        patch.setattr(TrainingLog, "advance", stop)
        assert train(own_config(pairs), tmp_path, network=OwnNetwork()) == 130
    assert train(own_config(pairs), tmp_path, network=OwnNetwork()) == 0
    for one, other in zip(lines(trained, "train"), lines(tmp_path, "train"), strict=True):
        assert one["loss"] == other["loss"]
        assert one["loss"] == pytest.approx(one["charbonnier"] + 0.5 * one["brightness"])
    resumed, once = (load_pretrained(f, OwnNetwork()).variables for f in (tmp_path, trained))
    jax.tree.map(np.testing.assert_array_equal, resumed, once)
    assert np.abs(once["batch_stats"]["BatchNorm_0"]["mean"]).max() > 0


def test_the_reserved_terms_are_the_other_entries_of_the_log(trained):
    for line in lines(trained, "train"):
        entries = {*line, *RATES} - {"charbonnier", "brightness"}
        assert entries == set(RESERVED_TERMS) - {"finite", "images_finite"}


def test_validation_is_that_of_deblur(trained):
    (logged,) = lines(trained, "validation")
    assert np.isfinite(logged["psnr"])


def test_its_checkpoint_needs_the_network(trained, tmp_path):
    with pytest.raises(UserError, match=r"of the class 'OwnNetwork': load it with .*network="):
        load_pretrained(trained)
    with pytest.raises(UserError, match=r"its features is 4, and yours is 5\. Load"):
        load_pretrained(trained, OwnNetwork(features=5))
    loaded = load_pretrained(trained, OwnNetwork())
    save_pretrained(loaded, tmp_path / "own.safetensors")
    again = load_pretrained(tmp_path / "own.safetensors", OwnNetwork())
    jax.tree.map(np.testing.assert_array_equal, again.variables, loaded.variables)


@pytest.mark.parametrize("size", [(3, 5), (24, 24), (61, 47)])
def test_tiles_are_the_whole_image(pretrained, size):
    image = np.random.default_rng(1).random((*size, 3), np.float32)
    tiled = deblur(image, pretrained, batch_size=3)
    padding = [(0, max(-length % 4, 2 * 4 - length)) for length in size]
    extended = np.pad(image, (*padding, (0, 0)), mode="reflect")
    whole = pretrained.model.apply(pretrained.variables, extended[None])[0]
    np.testing.assert_allclose(tiled, whole[: size[0], : size[1]], atol=1e-5)


def test_a_halo_that_is_too_small_shows(pretrained, monkeypatch):
    image = np.random.default_rng(1).random((61, 47, 3), np.float32)
    expected = deblur(image, pretrained)
    monkeypatch.setattr(OwnNetwork, "tiling", HaloTiles(halo=0, multiple=4, tile=16))
    assert np.abs(deblur(image, pretrained) - expected).max() > 1e-3
    monkeypatch.setattr(OwnNetwork, "tiling", WholeImage(multiple=4))
    np.testing.assert_allclose(deblur(image, pretrained), expected, atol=1e-5)


def test_a_tile_below_the_image_is_left_out(pretrained, monkeypatch):
    """An image lower than one tile without a halo is extended to two of them."""
    monkeypatch.setattr(OwnNetwork, "tiling", HaloTiles(halo=0, multiple=16, tile=16))
    image = np.random.default_rng(1).random((10, 16, 3), np.float32)
    tile = np.pad(image, ((0, 6), (0, 0), (0, 0)), mode="reflect")
    expected = pretrained.model.apply(pretrained.variables, tile[None])[0, :10]
    np.testing.assert_allclose(deblur(image, pretrained), expected, atol=1e-5)


def test_memory_is_that_of_a_row_of_tiles(pretrained):
    rows = restore(pretrained.model, pretrained.variables, np.zeros((160, 24, 3), np.uint8))
    assert max(map(len, rows)) <= 20


def test_a_stride_is_only_for_windows(pretrained):
    with pytest.raises(UserError, match="OwnNetwork does not work in overlapping windows"):
        deblur(np.zeros((20, 20, 3), np.uint8), pretrained, stride=3)


def test_numerics_are_set_where_a_network_has_them():
    assert with_numerics(OwnNetwork(), dtype="bfloat16").dtype == "bfloat16"
    assert with_numerics(OwnNetwork(), precision="highest") == OwnNetwork()
    with pytest.raises(UserError, match="OwnNetwork has no attribute 'precision'"):
        with_numerics(OwnNetwork(), precision="default")


def test_an_export_restores_images_of_any_size(pretrained, tmp_path, monkeypatch):
    export(pretrained, tmp_path / "own_export", platforms=["cpu"])
    monkeypatch.syspath_prepend(tmp_path)
    restore_exported = importlib.import_module("own_export").load()
    for size in ((3, 5), (61, 47)):
        image = np.random.default_rng(2).random((*size, 3), np.float32)
        np.testing.assert_allclose(
            restore_exported(image, batch_size=2), deblur(image, pretrained), atol=1e-5
        )
    with pytest.raises(ValueError, match="an image is an array, and this is a str"):
        restore_exported("x")
    for name in [name for name in sys.modules if name.startswith("own_export")]:
        monkeypatch.delitem(sys.modules, name)


def test_a_network_that_counts_pixels_cannot_be_exported(tmp_path):
    class Counting(nn.Module):
        tiling: ClassVar = HaloTiles(multiple=4)

        @nn.compact
        def __call__(self, image):
            return image * self.param("x", nn.initializers.ones, ()) / int(image.shape[1])

    own = Pretrained(Counting(), initial_variables(Counting(), 0), "own")
    with pytest.raises(UserError, match="Counting cannot be exported for images of any size"):
        export(own, tmp_path / "own_export", platforms=["cpu"])
    assert not (tmp_path / "own_export").exists()


def test_evaluate_takes_the_network(pairs, trained, tmp_path):
    config = get_config("pairs")
    config.update(checkpoint=str(trained), data_dir=str(pairs / "val"))
    with pytest.raises(UserError, match="load it with"):
        evaluate(config, tmp_path / "refused")
    evaluate(config, tmp_path / "results", network=OwnNetwork())
    (validated,) = lines(trained, "validation")
    found = json.loads((tmp_path / "results/metrics.json").read_text())["methods"]
    means = {method["name"]: method["mean"]["psnr"] for method in found}
    assert means["output"] == pytest.approx(validated["psnr"], abs=1e-3)


def test_the_ensemble_is_the_mean_of_flips_and_turns(pretrained):
    image = np.random.default_rng(3).random((20, 24, 3), np.float32)
    expected = np.mean(
        [
            np.rot90(deblur(np.rot90(image, k)[:, ::flip], pretrained)[:, ::flip], -k)
            for k in range(4)
            for flip in (1, -1)
        ],
        axis=0,
    )
    np.testing.assert_allclose(deblur(image, pretrained, ensemble=True), expected, atol=1e-5)


class _Batched(nn.Module):
    """Its batch norm is never told that it trains."""

    @nn.compact
    def __call__(self, image, training=False):
        return nn.BatchNorm(use_running_average=not training)(image)


class _Features(nn.Module):
    @nn.compact
    def __call__(self, image):
        return nn.Dense(3)(image).mean(axis=-1)


class _List(nn.Module):
    @nn.compact
    def __call__(self, image):
        return [nn.Dense(3)(image)]


class _Demanding(nn.Module):
    def __call__(self, image, is_training):
        return image


class _Dropping(nn.Module):
    @nn.compact
    def __call__(self, image):
        return nn.Dropout(0.5, deterministic=False)(nn.Dense(3)(image))


class _Failing(nn.Module):
    @nn.compact
    def __call__(self, image):
        return nn.Dense(3)(image) + jnp.zeros(7)


class _Half(nn.Module):
    @nn.compact
    def __call__(self, image):
        return nn.Dense(3, param_dtype=jnp.bfloat16)(image)


class _Strided(nn.Module):
    tiling: HaloTiles = HaloTiles(multiple=2)

    @nn.compact
    def __call__(self, image):
        x = nn.Conv(8, (4, 4), strides=4)(image)
        return nn.ConvTranspose(3, (4, 4), strides=(4, 4))(x)


class _Halo(nn.Module):
    tiling: HaloTiles = HaloTiles(halo=-1)

    def __call__(self, image):
        return image


class _Tiled(nn.Module):
    tiling: int = 32

    def __call__(self, image):
        return image


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (_Batched(), "_Batched has batch statistics, but its call has no argument `train`"),
        (
            _Features(),
            "_Features returns 2 x 64 x 64 for images of 2 x 64 x 64 x 3; it must return",
        ),
        (_List(), "_List returns list for images of"),
        (_Demanding(), "_Demanding.__call__ needs the argument 'is_training'; .* named `train`"),
        (_Dropping(), "_Dropping cannot be applied .*PRNG.* deterministic=not train"),
        (_Failing(), r"_Failing cannot be applied to images \(test_own_network.py, line \d+: Val"),
        (
            _Half(),
            r"_Half has parameters that are not float32 \(Dense_0/bias: bfloat16, .* `param_dtype`",
        ),
        (
            _Strided(),
            r"_Strided returns 2 x 68 x 68 x 3 for .* 2 x 66 x .* The multiple .* is 2; make",
        ),
        (_Halo(), "_Halo.tiling has the halo -1; it must be an integer of at least 0"),
        (_Tiled(), "_Tiled.tiling is 32; it must be a HaloTiles, WholeImage or Windows"),
    ],
)
def test_a_network_that_cannot_be_trained_is_refused(network, message, pairs, tmp_path):
    config = default_config()
    config.data.root = str(pairs)
    with pytest.raises(UserError, match=message) as refusal:
        train(config, tmp_path / "run", network=network)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (
            "Conv_0/.*",
            r"freezes 'Conv_0/\.\*' at random values; name pretrained weights ",
        ),
        ("Conv_7/.*", r"'Conv_7/\.\*' matches no parameter \(did you mean"),
    ],
)
def test_a_pattern_is_matched_before_what_it_freezes_is_checked(pattern, message, pairs, tmp_path):
    config = own_config(pairs)
    config.optimizer.lr_mults = ((pattern, 0),)
    with pytest.raises(UserError, match=message):
        train(config, tmp_path / "run", network=OwnNetwork())
    assert not (tmp_path / "run").exists()


def test_a_class_in_place_of_a_network_is_told():
    with pytest.raises(UserError, match=r"is the class _Failing; .*: network=_Failing\(\)"):
        check_is_instance(_Failing)


def test_a_flax_error_while_restoring_is_one_line():
    class Updating(nn.Module):
        @nn.compact
        def __call__(self, image):
            return nn.BatchNorm(use_running_average=False)(image)

    variables = initial_variables(Updating(), 0)
    with pytest.raises(UserError, match=r"Updating cannot be applied .*batch_stats"):
        deblur(np.zeros((20, 20, 3), np.uint8), Pretrained(Updating(), variables, "own"))


def test_a_run_is_not_resumed_with_another_network_of_equal_shapes(pairs, trained):
    class Other(OwnNetwork):
        pass

    with pytest.raises(UserError, match=r"another network: its class is '.*OwnNetwork', and your "):
        train(own_config(pairs, num_steps=6), trained, network=Other())
    with pytest.raises(UserError, match=r"another network: its features is 4, and yours is 5; ch"):
        train(own_config(pairs, num_steps=6), trained, network=OwnNetwork(5))


def test_a_checkpoint_tells_attributes_that_shapes_do_not(tmp_path):
    class Scaled(nn.Module):
        factor: float = 1.0

        @nn.compact
        def __call__(self, image):
            return image * self.factor * self.param("x", nn.initializers.ones, ())

    own = Pretrained(Scaled(), initial_variables(Scaled(), 0), "own")
    for name in ("own", "own.safetensors"):
        save_pretrained(own, tmp_path / name)
        load_pretrained(tmp_path / name, Scaled())
        with pytest.raises(UserError, match=r"its factor is 1\.0, and yours is 2\.0\. Load"):
            load_pretrained(tmp_path / name, Scaled(2.0))


def test_a_variable_keeps_its_dtype(tmp_path):
    class Counting(nn.Module):
        @nn.compact
        def __call__(self, image):
            self.variable("stats", "count", lambda: jnp.int32(3))
            return image * self.param("x", nn.initializers.ones, (), jnp.bfloat16)

    variables = initial_variables(Counting(), 0)
    save_pretrained(Pretrained(Counting(), variables, "own"), tmp_path / "own.safetensors")
    loaded = load_pretrained(tmp_path / "own.safetensors", Counting()).variables
    assert loaded["stats"]["count"].dtype == jnp.int32
    assert loaded["params"]["x"].dtype == variables["params"]["x"].dtype == jnp.bfloat16


def test_shared_modules_stay_shared():
    class Pair(nn.Module):
        parts: tuple

        def __call__(self, image):
            for part in self.parts:
                image = part(image)
            return image

    conv = nn.Conv(3, (1, 1))
    half = with_numerics(Pair((conv, conv)), dtype="bfloat16")
    assert half.parts[0] is half.parts[1]
    assert half.parts[0].dtype == "bfloat16"
    same = with_numerics(Pair((conv, conv)), precision="highest")
    assert same.parts[0] is same.parts[1]


def test_a_list_as_attribute_is_refused():
    with pytest.raises(UserError, match="Sequential has an attribute that is not hashable"):
        initial_variables(nn.Sequential([nn.Conv(3, (1, 1))]), 0)


def test_a_network_of_three_views_is_mirrored_with_its_views_exchanged():
    left, right, both = np.random.default_rng(0).random((3, 4, 5, 3))
    image = np.concatenate([left, right, both], axis=-1)
    mirrored = next(s for s in symmetries(3) if s.flips == (1,)).apply(image)
    expected = np.concatenate([right, left, both], axis=-1)[:, ::-1]
    np.testing.assert_array_equal(mirrored, expected)


def test_a_whole_image_is_not_copied_to_fill_a_batch(pretrained, monkeypatch):
    seen = []

    def restored(network, variables, tiles):
        seen.append(tiles.shape)
        return tiles

    monkeypatch.setattr("vitdeblur_jax.inference.restoration.restored_tiles", restored)
    deblur(np.zeros((20, 24, 3), np.uint8), pretrained, batch_size=8)
    assert seen == [(1, 20, 24, 3)]


def test_a_network_starts_from_the_variables_of_its_parent(pretrained, pairs, tmp_path):
    class WithTerm(OwnNetwork):
        LOSS_TERMS: ClassVar = {}

    save_pretrained(pretrained, tmp_path / "parent")
    with pytest.raises(UserError, match=r"dataclasses\.replace\(pretrained, model=network\)"):
        load_pretrained(tmp_path / "parent", WithTerm())
    moved = dataclasses.replace(
        load_pretrained(tmp_path / "parent", OwnNetwork()), model=WithTerm()
    )
    save_pretrained(moved, tmp_path / "start")
    config = own_config(pairs)
    config.initial.checkpoint = str(tmp_path / "start")
    given = traverse_util.unflatten_dict(given_variables(config, WithTerm()))
    jax.tree.map(np.testing.assert_allclose, given, pretrained.variables)


def test_a_config_of_another_network_lacks_its_keys(pairs):
    config = default_config()
    config.data.root = str(pairs)
    with pytest.raises(
        UserError, match=r"'loss.brightness', which OwnNetwork needs; .*\(network\)"
    ):
        check_config(config, OwnNetwork())
    config = default_config()
    with config.unlocked():
        config.network = "own"
    with pytest.raises(UserError, match=r"network is 'own', .*your own as module:attribute"):
        check_config(config)


def test_what_is_no_pretrained_network_is_told():
    with pytest.raises(UserError, match=r"deblur\(image, pretrained\) is given OwnNetwork\("):
        check_pretrained(OwnNetwork(), "deblur(image, pretrained)")
