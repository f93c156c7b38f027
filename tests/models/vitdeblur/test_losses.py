import jax
import jax.numpy as jnp
import numpy as np
from scipy import spatial, special

from vitdeblur_jax.models.vitdeblur import losses


def _arrays(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for _ in range(2)]


def test_contextual_cosine_loss_matches_scipy():
    one, other = _arrays(2, 5, 8)
    expected = [
        np.mean([spatial.distance.cosine(a, b) for a, b in zip(x, y, strict=True)])
        for x, y in zip(np.float64(one), np.float64(other), strict=True)
    ]
    found = losses.contextual_cosine_loss(jnp.array(one), jnp.array(other))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_zero_representation_has_no_direction_and_no_gradient():
    other = jnp.array(_arrays(2, 5, 8)[0])
    value, gradient = jax.value_and_grad(lambda x: losses.contextual_cosine_loss(x, other).mean())(
        jnp.zeros_like(other)
    )
    assert value == 1
    np.testing.assert_array_equal(gradient, 0)


def test_the_gradient_of_the_cosine_goes_into_both():
    one, other = (jnp.array(x) for x in _arrays(2, 5, 8))
    gradients = jax.grad(lambda x, y: losses.contextual_cosine_loss(x, y).sum(), (0, 1))(one, other)
    assert all(np.all(np.abs(gradient) > 0) for gradient in gradients)


def test_contextual_l1_loss_matches_its_definition():
    one, other = _arrays(2, 5, 8)
    found = losses.contextual_l1_loss(jnp.array(one), jnp.array(other))
    np.testing.assert_allclose(found, np.abs(one - other).mean(axis=(1, 2)), rtol=1e-6)


def test_sharpness_loss_is_two_binary_cross_entropies():
    blurred, sharp = (30 * x for x in _arrays(7))
    # log(1 - sigmoid(x)) = log(sigmoid(-x))
    expected = -special.log_expit(-np.float64(blurred)) - special.log_expit(np.float64(sharp))
    found = losses.sharpness_loss(jnp.array(blurred), jnp.array(sharp))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_vicreg_terms_match_numpy():
    one, other = (0.5 * x for x in _arrays(6, 4))
    found = [
        term(jnp.array(one), jnp.array(other))
        for term in (
            losses.vicreg_invariance,
            losses.vicreg_variance,
            losses.vicreg_covariance,
        )
    ]
    shortfalls, covariances = [], []
    for x in (np.float64(one), np.float64(other)):
        covariance = np.cov(x, rowvar=False)
        shortfalls.append(np.maximum(0, 1 - np.sqrt(np.diag(covariance) + 1e-4)).mean())
        covariances.append((covariance[~np.eye(4, dtype=bool)] ** 2).sum() / 256)
    expected = [((one - other) ** 2).mean(), np.mean(shortfalls), np.sum(covariances)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_half_precision_is_summed_in_single():
    one, other = (jnp.array(x, jnp.bfloat16) for x in _arrays(2, 300, 8))
    found = losses.contextual_l1_loss(one, other)
    assert found.dtype == jnp.float32
    exact = np.abs(np.float64(one) - np.float64(other)).mean(axis=(1, 2))
    np.testing.assert_allclose(found, exact, rtol=1e-6)
