"""Where training starts: as the identity, from a checkpoint, from pretrained encoders."""

import jax
import numpy as np
import optax
import pytest
from flax import traverse_util
from scipy import fft

from tests.small_model import small_pretrained
from tests.training.small_run import prepare_once, small_config
from vitdeblur_jax import deblur, save_pretrained
from vitdeblur_jax.checkpoints.pretrained import Pretrained
from vitdeblur_jax.checkpoints.safetensors_files import write_safetensors
from vitdeblur_jax.distributed.sharding import batch_sharded, local_mesh
from vitdeblur_jax.models import create_network, initial_variables
from vitdeblur_jax.models.vitdeblur.initialization import (
    dct_init,
    frequency_kernel,
    identity_init,
)
from vitdeblur_jax.models.vitdeblur.published import to_published
from vitdeblur_jax.training.checkpointing import TrainingCheckpoints
from vitdeblur_jax.training.initialization import given_variables, starting_variables
from vitdeblur_jax.training.preparation import first_state
from vitdeblur_jax.utils.errors import UserError


@pytest.fixture(scope="module")
def another():
    """A model of the architecture of `small_config`, none of its variables zero."""
    return small_pretrained()


def _started(config):
    network = create_network(config)
    return starting_variables(config, network, given_variables(config, network))


@pytest.mark.parametrize("views", [1, 2])
def test_as_identity_gives_back_the_mean_of_the_views_inside_of_the_border(views):
    pretrained = small_pretrained(views=views)
    variables = identity_init(pretrained.variables)
    image = np.random.default_rng(0).random((2, 46, 46, 3 * views), np.float32)
    restored = jax.jit(pretrained.model.apply)(variables, image)
    expected = np.mean(np.split(image, views, axis=-1), axis=0)
    error = np.abs(restored - expected).max(axis=(0, 3))
    border = pretrained.config.model.image_head.input_kernel // 2
    assert error[border:-border, border:-border].max() < 1e-6
    assert error[border - 1 : 1 - border, border - 1 : 1 - border].max() > 0.1


def test_a_patch_becomes_its_lowest_frequencies():
    patch = np.random.default_rng(0).standard_normal((8, 8, 3))
    kernel = frequency_kernel(8, 20).astype(np.float64)
    tokens = np.einsum("yxc,yxcw->w", patch, kernel)
    size = np.sqrt((kernel**2).sum(axis=(0, 1, 2)))
    luma = fft.dctn(patch.sum(axis=-1) / np.sqrt(3), norm="ortho")
    # Brightness, two half waves' worth of luma, then chroma at 2.5 times 0.7.
    np.testing.assert_allclose(tokens[:4] / size[:4], luma[[0, 0, 1, 1], [0, 1, 0, 1]], rtol=1e-5)
    chroma = (patch[..., 0] - patch[..., 2]).sum() / np.sqrt(2) / 8
    np.testing.assert_allclose(tokens[4] / size[4], chroma, rtol=1e-5)
    products = np.einsum("yxcv,yxcw->vw", kernel, kernel) / np.outer(size, size)
    np.testing.assert_allclose(products, np.eye(20), atol=1e-6)
    assert size[3] / size[1] == pytest.approx(2**0.9)
    everything = frequency_kernel(4, 50)
    assert np.linalg.matrix_rank(everything.reshape(48, 50)) == 48
    assert not everything[..., 48:].any()


def test_a_transparent_decoder_sees_the_frequencies_of_each_patch():
    pretrained = small_pretrained(decoder__width=32)
    model, table = pretrained.model, pretrained.variables["position_embedding"]
    zero_table = jax.tree.map(jax.numpy.zeros_like, table)
    image = np.random.default_rng(0).random((1, 42, 42, 3), np.float32)

    @jax.jit
    def intermediates(variables):
        variables = {**variables, "position_embedding": zero_table}
        capture = {"mutable": "intermediates", "capture_intermediates": True}
        _, updates = model.apply(variables, image, method="features", **capture)
        return updates["intermediates"]

    def agreement(variables):
        """Mean over tokens of the correlation between patch embedding and the decoder's end."""
        seen = intermediates(variables)
        (embedding,) = seen["tokenizer"]["patch_embedding"]["__call__"]
        (end,) = seen["decoder"]["norm"]["__call__"]
        pairs = zip(embedding.reshape(-1, 32), end[0], strict=True)
        return np.mean([np.corrcoef(*pair)[0, 1] for pair in pairs])

    random = initial_variables(model, 0)
    assert abs(agreement(random)) < 0.5
    assert agreement(dct_init(random)) > 0.9


@pytest.mark.slow
def test_the_decoder_of_the_identity_learns(tmp_path):
    config = small_config(initial__identity_init=True)
    run = prepare_once(config, create_network(config), local_mesh())
    with TrainingCheckpoints(tmp_path, 1) as checkpoints:
        state, _ = first_state(config, run, checkpoints)
    rng = np.random.default_rng(0)
    for _ in range(3):  # what comes before a zero gets its gradient a step later
        images = rng.integers(256, size=(2, 4, 46, 46, 3), dtype=np.uint8)
        batch = {"blurred": images[0], "sharp": images[1], "index": np.arange(4, dtype=np.int32)}
        state, _ = run.train_step(state, jax.device_put(batch, batch_sharded(run.mesh)))
    is_adam = lambda part: isinstance(part, optax.ScaleByAdamState)  # noqa: E731
    (adam,) = filter(is_adam, jax.tree.leaves(state.opt_state, is_leaf=is_adam))
    for name, squares in traverse_util.flatten_dict(adam.nu["decoder"], sep="/").items():
        assert np.max(squares) > 0, name


def test_a_run_starts_from_a_checkpoint(tmp_path, another):
    save_pretrained(another, tmp_path / "checkpoint")
    config = small_config(initial__checkpoint=str(tmp_path / "checkpoint"))
    started = _started(config)
    jax.tree.map(np.testing.assert_array_equal, started, another.variables)


def test_a_checkpoint_that_does_not_fit_is_told(tmp_path, another):
    save_pretrained(another, tmp_path / "small.safetensors")
    changes = {"initial__checkpoint": str(tmp_path / "small.safetensors")}
    with pytest.raises(UserError, match=r"its model.primary_encoder.depth is 1, and yours is 2"):
        _started(small_config(**changes, model__primary_encoder__depth=2))


def test_a_model_with_overlap_starts_as_one_without(tmp_path, another, capsys):
    save_pretrained(another, tmp_path / "plain.safetensors")
    changes = {"initial__checkpoint": str(tmp_path / "plain.safetensors")}
    config = small_config(**changes, model__decoder__patch_overlap=3)
    network = create_network(config)
    given = traverse_util.unflatten_dict(given_variables(config, network))
    (said,) = capsys.readouterr().err.splitlines()
    assert "plain.safetensors: its model.decoder.patch_overlap is 0, and yours is 3; " in said
    assert said.endswith("; its variables are extended without changing the output")
    image = np.random.default_rng(0).random((50, 43, 3), np.float32)
    start = deblur(image, Pretrained(network, given, "start"))
    np.testing.assert_allclose(start, deblur(image, another), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("saved", "changes", "told"),
    [
        (0, {"patch_overlap": 2, "num_heads": 2}, "num_heads is 4, and .*patch_overlap is 0, and"),
        (3, {"patch_overlap": 2}, "patch_overlap is 3, and yours is 2"),
        (3, {"patch_overlap": 0}, "patch_overlap is 3, and yours is 0"),
    ],
)
def test_only_a_checkpoint_without_overlap_is_extended(tmp_path, capsys, saved, changes, told):
    save_pretrained(small_pretrained(decoder__patch_overlap=saved), tmp_path / "a.safetensors")
    config = small_config(initial__checkpoint=str(tmp_path / "a.safetensors"))
    config.model.decoder.update(changes)
    with pytest.raises(UserError, match=f"a.safetensors is of another network: .*{told}"):
        given_variables(config, create_network(config))
    assert not capsys.readouterr().err


def test_a_run_starts_from_a_pretrained_encoder(tmp_path, another, capsys):
    prefix = "primary_encoder.pretrain_mae."
    encoder = {
        name.removeprefix(prefix): value
        for name, value in to_published(another.model, another.variables).items()
        if name.startswith(prefix)
    }
    write_safetensors(tmp_path / "mae.safetensors", {**encoder, "mask_token": np.zeros(3)}, {})
    config = small_config(initial__encoder=str(tmp_path / "mae.safetensors"), seed=3)
    started = traverse_util.flatten_dict(_started(config))
    random = traverse_util.flatten_dict(initial_variables(create_network(config), 3))
    given = traverse_util.flatten_dict(another.variables)
    assert started.keys() == random.keys()
    for path, value in started.items():
        is_given = path[1] == "primary_encoder" or path[0] == "position_embedding"
        if path[:2] == ("params", "tokenizer"):
            assert not np.array_equal(value, random[path])
        else:
            np.testing.assert_array_equal(value, (given if is_given else random)[path])
    assert "of its entries are not used by the network" in capsys.readouterr().err
