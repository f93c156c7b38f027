import jax
import numpy as np
import pytest

from vitdeblur_jax.models.layers.batch_norm import BatchNorm

SCALE, BIAS = np.array([0.5, 2]), np.array([0.1, -0.2])
MEAN, VAR = np.array([1.0, -1]), np.array([4.0, 0.25])


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(3, 2, (3, 4, 5, 2)).astype(np.float32)


@pytest.fixture
def variables():
    values = {"params": {"scale": SCALE, "bias": BIAS}, "batch_stats": {"mean": MEAN, "var": VAR}}
    return jax.device_put(values)


def normalized(x, mean, var):
    return (x - mean) / np.sqrt(var + 1e-5) * SCALE + BIAS


def test_running_statistics(x, variables):
    np.testing.assert_allclose(
        BatchNorm().apply(variables, x), normalized(x, MEAN, VAR), rtol=1e-5, atol=1e-6
    )


def test_training_uses_the_batch_and_updates_with_the_unbiased_variance(x, variables):
    output, updated = BatchNorm(0.8).apply(variables, x, True, mutable="batch_stats")
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(output, normalized(x, mean, var), rtol=1e-4, atol=1e-5)
    statistics = updated["batch_stats"]
    np.testing.assert_allclose(statistics["mean"], 0.8 * MEAN + 0.2 * mean, rtol=1e-5)
    unbiased = x.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(statistics["var"], 0.8 * VAR + 0.2 * unbiased, rtol=1e-5)


def test_statistics_of_each_image(x, variables):
    output = BatchNorm(image_statistics=True).apply(variables, x)
    for one, image in zip(output, x, strict=True):
        expected = normalized(image, image.mean((0, 1)), image.var((0, 1)))
        np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-5)
