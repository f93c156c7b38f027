import functools
import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitdeblur_jax.models.layers import attention
from vitdeblur_jax.models.layers.cpu_attention import QUERIES, attention_by_head


@pytest.fixture
def qkv():
    rng = np.random.default_rng(0)
    return [jax.device_put(rng.standard_normal((2, 13, 3, 8))) for _ in range(3)]


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
        lambda *x: attention_by_head(*x, precision="highest"),
        lambda *x: attention._plain(*x, precision="highest"),
    ],
)
def test_attention_matches_its_definition(compute, qkv):
    expected = _by_definition(*qkv)
    np.testing.assert_allclose(compute(*qkv), expected, atol=2e-6)


def test_large_scores_do_not_overflow(qkv):
    query, key, value = qkv
    mixed = attention.dot_product_attention(300 * query, 300 * key, value)
    np.testing.assert_allclose(mixed, _by_definition(300 * query, 300 * key, value), atol=1e-3)


@pytest.mark.parametrize("tokens", [13, 2 * QUERIES + 9])
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("bfloat16", 2.0**-6)])
def test_a_cpu_has_the_same_gradient(tokens, dtype, bound):
    """One block of queries, and several with padding; the gradients of two losses at once."""
    rng = np.random.default_rng(0)
    qkv = jax.device_put(list(rng.standard_normal((3, 2, tokens, 3, 8)).astype(dtype)))
    losses = jax.device_put(rng.standard_normal((2, *qkv[0].shape)).astype(dtype))

    def pull_back(compute, arrays):
        return jax.vjp(functools.partial(compute, precision="highest"), *arrays)[1]

    found = jax.jit(jax.vmap(pull_back(attention_by_head, qkv)))(losses)
    exact = pull_back(attention._plain, [np.float32(x) for x in qkv])
    expected = jax.jit(jax.vmap(exact))(np.float32(losses))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype
        scale = np.abs(other).max()
        np.testing.assert_allclose(np.float32(one), other, rtol=0, atol=bound * scale)


def test_a_cpu_keeps_forward_mode(qkv):
    functions = attention_by_head, jax.nn.dot_product_attention
    moved, expected = (jax.jit(functools.partial(jax.jvp, f))(qkv, qkv[::-1])[1] for f in functions)
    np.testing.assert_allclose(moved, expected, atol=2e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_other_platforms_compute_what_jax_nn_computes(qkv, dtype, platform):
    def program(function):
        traced = jax.jit(function).trace(*(x.astype(dtype) for x in qkv))
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        # XLA drops the case of a constant.
        return Counter(re.findall(r"stablehlo\.(?!case|constant|return)\w+", text))

    expected = program(jax.nn.dot_product_attention)
    found = program(attention.dot_product_attention)
    assert expected["stablehlo.dot_general"] == 2
    assert found == expected


def test_precision_reaches_the_products(qkv):
    traced = jax.jit(lambda *x: attention.dot_product_attention(*x, "highest")).trace(*qkv)
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("precision = [HIGHEST, HIGHEST]") == 2


def test_the_fused_kernel_keeps_forward_mode(qkv, monkeypatch):
    """A stand-in that, as the kernel of cuDNN, has a gradient and no forward-mode derivative."""
    plain = jax.nn.dot_product_attention

    def with_kernel(*arrays, implementation=None):
        kernel = jax.custom_vjp(plain)
        kernel.defvjp(lambda *x: jax.vjp(plain, *x), lambda pull_back, g: pull_back(g))
        return kernel(*arrays) if implementation == "cudnn" else plain(*arrays)

    monkeypatch.setattr(jax.nn, "dot_product_attention", with_kernel)
    monkeypatch.setattr(attention, "_cudnn_has_a_kernel", lambda query: True)
    moved = jax.jvp(attention.dot_product_attention, qkv, qkv[::-1])[1]
    np.testing.assert_allclose(moved, jax.jvp(plain, qkv, qkv[::-1])[1], atol=2e-5)

    def gradient(function):
        return jax.grad(lambda x: (function(*x) ** 2).sum())(qkv)

    pairs = zip(gradient(attention.dot_product_attention), gradient(plain), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_blocks_of_equal_shapes_share_a_trace(monkeypatch):
    calls = []

    def counted(query, *others, **settings):
        calls.append(query.shape)
        return attention_by_head(query, *others, **settings)

    monkeypatch.setattr(attention, "attention_by_head", counted)
    compute = attention.dot_product_attention
    x = jnp.zeros((1, 3, 2, 7))  # no other test has this shape
    jax.make_jaxpr(lambda x: compute(compute(x, x, x), x, x))(x)
    assert calls == [x.shape]
