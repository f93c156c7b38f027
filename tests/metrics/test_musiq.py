"""MUSIQ against figures of pyiqa with stand-in weights, step by step."""

import functools

import jax
import numpy as np
import pytest

from tests.metrics.golden_pairs import ONE_AT_LEAST, golden_pair, statistics
from tests.metrics.metric_weights import stand_in_state_dict
from vitdeblur_jax.metrics import musiq
from vitdeblur_jax.metrics.musiq import (
    _layer_norm,
    _standardised,
    embed,
    grid,
    musiq_params,
    patches_of_scales,
    positions_of,
    scale_sizes,
    score,
    transformer_block,
    with_places,
)
from vitdeblur_jax.utils.errors import UserError


@functools.cache
def weights() -> dict:
    return stand_in_state_dict("musiq_koniq", 0)


@functools.cache
def params() -> dict:
    return musiq_params(weights(), "stand-in")


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", ONE_AT_LEAST)
@pytest.mark.parametrize("which", ["sharp", "blurred"])
def test_figures_and_steps(name, which):
    pair = golden_pair(name)
    image = (getattr(pair, which) / 255).astype(np.float32)
    steps = pair.figures["musiq_steps"]
    sizes = scale_sizes(*image.shape[:2])
    assert [list(size) for size in sizes] == steps["resized_sizes"]
    assert [list(grid(*size)) for size in sizes] == steps["grids"]
    embedded = jax.jit(embed)(jax.jit(patches_of_scales)(image), params())
    assert len(embedded) == sum(steps["valid_tokens"])
    golden = steps[which]
    assert statistics(embedded) == pytest.approx(golden["embedding_mean_std"], rel=1e-4)
    tokens = jax.jit(with_places, static_argnums=(1, 2))(embedded, *image.shape[:2], params())
    block = jax.jit(transformer_block)
    for i in range(14):
        tokens = block(tokens, jax.tree.map(lambda layers, i=i: layers[i], params()["blocks"]))
        if i in (0, 13):
            assert statistics(tokens) == pytest.approx(golden[f"block_{i}_mean_std"], rel=1e-4)
    first = np.asarray(_layer_norm(np.asarray(tokens)[0], params()["encoder_norm"]))[:4].tolist()
    assert first == pytest.approx(golden["encoder_norm_class_token_first4"], rel=1e-4)
    value = float(jax.jit(score)(tokens, params()))
    assert value == pytest.approx(pair.figures[f"musiq_{which}"], rel=1e-4)
    assert float(jax.jit(musiq)(image, params())) == pytest.approx(value, rel=1e-5)


def test_positions_follow_float32():
    """At these counts whole numbers and float32 give different cells."""
    for count in (205, 235, 266, 275, 305):
        exact = np.arange(count) * 10 // count
        assert (positions_of(1, count) != exact).any()
    for count in (1, 7, 10, 12, 33, 300):
        np.testing.assert_array_equal(positions_of(count, 1), np.arange(count) * 10 // count * 10)


def test_standardised_kernels():
    kernel = np.random.default_rng(0).standard_normal((4, 3, 5, 5)) * 3 + 1
    found = _standardised(kernel)
    assert found.shape == (5, 5, 3, 4)
    for i in range(4):
        one = kernel[i] - kernel[i].mean()
        one /= np.sqrt((one**2).sum() / (one.size - 1)) + 1e-5
        np.testing.assert_allclose(found[..., i], one.transpose(1, 2, 0), rtol=1e-12)


def test_patches_hold_the_image_in_the_middle_of_zeros():
    image = np.random.default_rng(0).random((40, 33, 3)).astype(np.float32)
    patches = np.asarray(jax.jit(patches_of_scales)(image))[-4:]
    whole = patches.reshape(2, 2, 32, 32, 3).transpose(0, 2, 1, 3, 4).reshape(64, 64, 3)
    np.testing.assert_allclose(whole[12:52, 15:48], 2 * image - 1, atol=1e-6)
    whole[12:52, 15:48] = 0
    assert not whole.any()


@pytest.mark.parametrize("size", [(1, 1), (3, 500)])
def test_odd_images_have_finite_scores(size):
    flat = np.full((*size, 3), 0.5, np.float32)
    assert np.isfinite(jax.jit(musiq)(flat, params()))
    flat[-1, -1, 2] = np.inf
    assert np.isnan(jax.jit(musiq)(flat, params()))


def test_other_weights_are_refused():
    state_dict = dict(weights())
    state_dict["head.weight"] = np.zeros((10, 384), np.float32)  # that of another data set
    with pytest.raises(UserError, match=r"x\.pth does not fit .*head\.weight is \(10, 384\)"):
        musiq_params(state_dict, "x.pth")


def test_a_file_may_be_nested_and_of_any_precision():
    state_dict = {name: array.astype(np.float64) for name, array in weights().items()}
    found = musiq_params({"params": state_dict}, "stand-in")
    jax.tree.map(np.testing.assert_array_equal, found, params())
    assert {array.dtype for array in jax.tree.leaves(found)} == {np.dtype(np.float32)}
