import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitdeblur_jax.models.layers import attention


@pytest.fixture
def qkv():
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal((2, 13, 3, 8)), jnp.float32) for _ in range(3)]


def _by_definition(query, key, value):
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    scores = np.einsum("bthw,bshw->bhts", query, key) / np.sqrt(query.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhts,bshw->bthw", weights, value)


@pytest.mark.parametrize(
    "compute",
    [
        attention.dot_product_attention,
        lambda *x: attention._head_by_head(*x, precision="highest"),
        lambda *x: attention._all_heads(*x, precision="highest"),
    ],
)
def test_attention_matches_its_definition(compute, qkv):
    expected = _by_definition(*qkv)
    np.testing.assert_allclose(compute(*qkv), expected, atol=2e-6)


def test_large_scores_do_not_overflow(qkv):
    query, key, value = qkv
    mixed = attention.dot_product_attention(300 * query, 300 * key, value)
    np.testing.assert_allclose(mixed, _by_definition(300 * query, 300 * key, value), atol=1e-3)


def test_both_ways_have_the_same_gradient(qkv):
    def loss(compute):
        return lambda x: (compute(*x, precision="highest") ** 2).sum()

    by_head = jax.grad(loss(attention._head_by_head))(qkv)
    at_once = jax.grad(loss(attention._all_heads))(qkv)
    for one, other in zip(by_head, at_once, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
