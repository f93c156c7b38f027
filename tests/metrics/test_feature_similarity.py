"""FSIM and FSIMc against figures of pyiqa, step by step, and on images that are odd."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.metrics.golden_pairs import ONE_AT_LEAST, as_floats, golden_pair
from vitdeblur_jax.metrics import feature_similarity
from vitdeblur_jax.metrics.feature_similarity import features, log_gabor_filters

compiled = jax.jit(feature_similarity, static_argnames="chromatic")


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", ONE_AT_LEAST)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_figures(name, dtype):
    pair = golden_pair(name)
    suffix = "_float64" if dtype is np.float64 else ""
    with jax.enable_x64(dtype is np.float64):
        for metric in ("fsim", "fsimc"):
            value = compiled(*as_floats(pair, dtype), chromatic=metric == "fsimc")
            assert value.dtype == dtype
            golden = pair.figures[metric + suffix]
            assert float(value) == pytest.approx(golden, rel=0, abs=3e-6)


@pytest.mark.parametrize("name", ONE_AT_LEAST)
@pytest.mark.parametrize("which", ["blurred", "sharp"])
def test_steps(name, which):
    """The recorded filters are float32: what is left of a response after the threshold differs."""
    pair = golden_pair(name)
    steps = pair.figures["fsim_steps"]
    with jax.enable_x64(True):
        found = jax.jit(features)(jax.device_put(getattr(pair, which) / 255))
        found = jax.tree.map(np.asarray, found)
    side = min(pair.sharp.shape[:2]) // steps["downsampling"]
    assert min(found.luminance.shape) == side
    assert float(found.luminance.mean()) == pytest.approx(steps[f"{which}_luminance_mean"], 1e-6)
    assert float(found.gradient.mean()) == pytest.approx(steps[f"{which}_gradient_mean"], 1e-6)
    phase = found.phase_congruency
    statistics = [float(phase.mean()), float(phase.std(ddof=1))]
    assert statistics == pytest.approx(steps[f"{which}_phase_congruency_mean_std"], rel=1e-4)
    for step in ("phase_congruency", "gradient"):
        for row, column, value in steps[f"{which}_{step}_probes"]:
            probe = float(getattr(found, step)[row, column])
            assert probe == pytest.approx(value, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("size", [(16, 20), (17, 21), (1, 1), (1, 8)])
def test_filters_pass_no_brightness(size):
    filters = log_gabor_filters(*size)
    assert np.isfinite(filters).all()
    assert (filters[:, :, 0, 0] == 0).all()


@pytest.mark.parametrize("size", [(33, 40), (1, 1), (5, 1)])
@pytest.mark.parametrize("chromatic", [True, False])
def test_any_size_and_identical_images(size, chromatic):
    rng = np.random.default_rng(0)
    image, other = rng.random((2, *size, 3), np.float32)
    assert float(compiled(image, image, chromatic=chromatic)) == pytest.approx(1, abs=1e-5)
    value = float(compiled(image, other, chromatic=chromatic))
    assert 0 <= value <= 1 + 1e-6
    assert value == pytest.approx(float(compiled(other, image, chromatic=chromatic)), abs=1e-6)


def test_flat_images_are_alike():
    one, other = np.full((20, 24, 3), 0.3, np.float32), np.full((20, 24, 3), 0.3, np.float32)
    assert float(compiled(one, other)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_not_hidden(value):
    image = np.random.default_rng(0).random((20, 24, 3)).astype(np.float32)
    broken = image.copy()
    broken[3, 4, 1] = value
    assert np.isnan(compiled(broken, image))


def test_gradients_are_finite_and_point_uphill():
    rng = np.random.default_rng(0)
    image, other = rng.random((2, 24, 28, 3), np.float32)
    flat = np.full_like(image, 0.5)
    slope = jax.jit(jax.grad(feature_similarity))
    for pair in ((image, other), (image, image), (flat, flat), (flat, image)):
        assert jnp.isfinite(slope(*pair)).all()
    direction = slope(image, other)
    uphill = image + 1e-3 * direction / jnp.abs(direction).max()
    assert compiled(uphill, other) > compiled(image, other)


def test_vmap_is_one_by_one():
    images, others = np.random.default_rng(0).random((2, 3, 20, 24, 3), np.float32)
    together = jax.jit(jax.vmap(feature_similarity))(images, others)
    single = [compiled(*pair) for pair in zip(images, others, strict=True)]
    np.testing.assert_allclose(together, single, rtol=1e-5)
