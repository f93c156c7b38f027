"""CKDN against figures of pyiqa with stand-in weights, step by step."""

import functools

import jax
import numpy as np
import pytest

from tests.metrics.golden_pairs import ONE_AT_LEAST, as_floats, golden_pair, statistics
from tests.metrics.metric_weights import stand_in_state_dict
from vitdeblur_jax.metrics import ckdn
from vitdeblur_jax.metrics.ckdn import ckdn_params, compare, encode, pool, preprocess, regress, stem
from vitdeblur_jax.utils.errors import UserError


@functools.cache
def weights() -> dict:
    return stand_in_state_dict("ckdn", 0)


@functools.cache
def params() -> dict:
    return ckdn_params(weights(), "stand-in")


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", ONE_AT_LEAST)
@pytest.mark.parametrize("call", ["ckdn", "ckdn_swapped"])
def test_figures_and_steps(name, call):
    pair = golden_pair(name)
    images = as_floats(pair)[:: -1 if call == "ckdn_swapped" else 1]
    golden = pair.figures[f"{call}_steps"]
    prepared = {
        "image": jax.jit(preprocess)(images[0]),
        "reference": jax.jit(functools.partial(preprocess, is_reference=True))(images[1]),
    }
    for which, picture in prepared.items():
        pixels = np.asarray(picture)
        for channel, row, column, value in golden[f"preprocessed_{which}_probes"]:
            assert float(pixels[row, column, channel]) == pytest.approx(value, abs=3e-5)
        assert statistics(picture) == pytest.approx(golden[f"preprocessed_{which}"], rel=1e-4)
    seen = {}
    for network, picture in zip(("qse", "dte"), prepared.values(), strict=True):
        first = jax.jit(stem)(picture, params()[f"{network}_1"])
        assert statistics(first) == pytest.approx(golden[f"{network}_1"], rel=1e-4)
        seen[network] = jax.jit(encode)(picture, params()[f"{network}_1"], params()[f"{network}_2"])
        assert statistics(seen[network]) == pytest.approx(golden[f"{network}_2"], rel=1e-4)
    difference = seen["qse"] - seen["dte"]
    assert statistics(difference) == pytest.approx(golden["difference"], rel=1e-4)
    compared = jax.jit(compare)(difference, params()["csp"])
    assert statistics(compared) == pytest.approx(golden["csp"], rel=1e-4)
    pooled = jax.jit(pool)(difference, params()["csp"])
    assert statistics(pooled) == pytest.approx(golden["avgpool"], rel=1e-4)
    logit = float(jax.jit(regress)(pooled, params()["head"]))
    assert logit == pytest.approx(golden["logit"], rel=1e-4)
    value = float(jax.jit(ckdn)(*images, params()))
    assert value == pytest.approx(pair.figures[call], rel=1e-4)
    assert value == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (3, 400)])
def test_odd_images_have_finite_scores(size):
    flat = np.full((*size, 3), 0.5, np.float32)
    assert 0 < float(jax.jit(ckdn)(flat, flat, params())) < 1
    broken = flat.copy()
    broken[-1, -1, 2] = np.nan
    assert np.isnan(jax.jit(ckdn)(broken, flat, params()))


def test_other_weights_are_refused():
    state_dict = dict(weights())
    del state_dict["net.csp.3.bn2.running_var"]
    with pytest.raises(UserError, match=r"x\.pth does not fit .*running_var is missing"):
        ckdn_params(state_dict, "x.pth")


def test_the_authors_file_is_read_too():
    named = {f"module.{name.removeprefix('net.')}": array for name, array in weights().items()}
    found = ckdn_params({"epoch": 3, "state_dict": named}, "stand-in")
    jax.tree.map(np.testing.assert_array_equal, found, params())
