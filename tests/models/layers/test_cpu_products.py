import functools
import re
from collections import Counter

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from vitdeblur_jax.models.layers.cpu_products import product_on_cpu
from vitdeblur_jax.models.layers.dense import Dense

BOUNDS = {"float32": 1e-6, "bfloat16": 2.0**-7}


def _arrays(dtype, *shapes):
    rng = np.random.default_rng(0)
    return [jax.device_put(np.asarray(rng.standard_normal(shape), dtype)) for shape in shapes]


def _assert_near(found, expected, dtype):
    bound = BOUNDS[dtype] * np.abs(expected).max()
    np.testing.assert_allclose(np.float64(found), expected, rtol=0, atol=bound)


def dense(x, kernel, bias=None, precision=None):
    params = {"kernel": kernel} if bias is None else {"kernel": kernel, "bias": bias}
    settings = {"use_bias": bias is not None, "dtype": x.dtype, "precision": precision}
    return Dense(kernel.shape[-1], **settings).apply({"params": params}, x)


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize(("rows", "width", "columns"), [(40, 6, 11), (40, 11, 6)])
def test_a_product_and_its_gradients(dtype, transposed, batch, rows, width, columns):
    """Both widths, for the narrower factor is the one that is laid out anew."""
    shape = (columns, width) if transposed else (width, columns)
    a, b, weights = _arrays(dtype, (*batch, rows, width), (*batch, *shape), (*batch, rows, columns))
    weights = np.float32(weights)

    def total(a, b):
        product = product_on_cpu(a, b, transposed, "highest")
        assert product.dtype == jnp.float32
        return (weights * product).sum(), product

    (of_a, of_b), product = jax.jit(jax.grad(total, (0, 1), has_aux=True))(a, b)
    assert of_a.dtype == of_b.dtype == a.dtype
    exact_a, exact_b, weights = (np.asarray(x, np.float64) for x in (a, b, weights))
    if transposed:
        exact_b = exact_b.swapaxes(-1, -2)
    _assert_near(product, exact_a @ exact_b, "float32")
    _assert_near(of_a, weights @ exact_b.swapaxes(-1, -2), dtype)
    expected = exact_a.swapaxes(-1, -2) @ weights
    _assert_near(of_b, expected.swapaxes(-1, -2) if transposed else expected, dtype)


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("with_bias", [False, True])
def test_a_dense_layer_and_its_gradients(dtype, with_bias):
    x, kernel, weights = _arrays(dtype, (2, 70, 9), (9, 5), (2, 70, 5))
    bias = _arrays("float32", (5,))[0] if with_bias else None

    def total(x, kernel, bias):
        found = dense(x, kernel, bias, "highest")
        assert found.dtype == x.dtype
        return (weights.astype(jnp.float32) * found.astype(jnp.float32)).sum(), found

    gradients, found = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))(x, kernel, bias)
    x, kernel, weights = (np.asarray(each, np.float64) for each in (x, kernel, weights))
    shift = 0 if bias is None else np.asarray(bias).astype(dtype).astype(np.float64)
    _assert_near(found, x @ kernel + shift, dtype)
    _assert_near(gradients[0], weights @ kernel.T, dtype)
    _assert_near(gradients[1], np.einsum("btw,btf->wf", x, weights), dtype)
    if with_bias:
        _assert_near(gradients[2], weights.sum((0, 1)), dtype)


def test_many_rows_of_half_precision_are_added_up_in_float32():
    """In bfloat16 the sum of ones ends at 256."""
    rows = jnp.ones((4000, 3), jnp.bfloat16)
    kernel = jnp.ones((3, 2), jnp.bfloat16)

    def total(kernel, bias):
        return dense(rows, kernel, bias).astype(jnp.float32).sum()

    of_kernel, of_bias = jax.jit(jax.grad(total, (0, 1)))(kernel, jnp.zeros(2))
    assert np.all(np.float32(of_kernel) == ml_dtypes.bfloat16(4000))
    assert np.all(of_bias == ml_dtypes.bfloat16(4000))


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("transposed", [False, True])
def test_forward_mode(dtype, transposed):
    a, b, of_a, of_b = _arrays(dtype, (4, 3), (3, 3), (4, 3), (3, 3))

    def product(a, b):
        return product_on_cpu(a, b, transposed, "highest")

    tangent = jax.jit(functools.partial(jax.jvp, product))((a, b), (of_a, of_b))[1]
    a, b, of_a, of_b = (np.asarray(x, np.float64) for x in (a, b, of_a, of_b))
    if transposed:
        b, of_b = b.T, of_b.T
    _assert_near(tangent, of_a @ b + a @ of_b, "float32")


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_other_platforms_compute_what_flax_computes(dtype, platform):
    x, kernel = _arrays(dtype, (2, 4, 3), (3, 2))

    def program(layer_class):
        layer = layer_class(2, dtype=dtype)

        def total(params, x):
            return layer.apply({"params": params}, x).sum()

        params = {"kernel": kernel, "bias": jnp.zeros(2)}
        traced = jax.jit(jax.grad(total, (0, 1))).trace(params, x)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        # XLA drops the case of a constant, and broadcasts cost nothing.
        return Counter(re.findall(r"stablehlo\.(?!broadcast|case|constant|return)\w+", text))

    assert program(nn.Dense)["stablehlo.dot_general"] == 2
    assert program(Dense) == program(nn.Dense)


@pytest.mark.usefixtures("optimized")
def test_all_products_of_half_precision_are_of_the_fast_kind():
    """What XLA can compute in bfloat16 on this machine it does here, forwards and backwards."""
    x, kernel, bias = _arrays("bfloat16", (2, 70, 64), (64, 32), (32,))

    def total(x, kernel):
        return (dense(x, kernel, bias).astype(jnp.float32) ** 2).sum()

    plain = _factors(product_on_cpu, x[0], kernel)
    if jax.default_backend() != "cpu" or plain != [("bf16", "bf16")]:
        pytest.skip("XLA computes half precision in another way here")
    found = _factors(jax.grad(total, (0, 1)), x, kernel)
    assert found == 3 * [("bf16", "bf16")]


def _factors(function, *arrays):
    """Returns the dtypes of the factors of each product of matrices in the compiled program."""
    text = jax.jit(function).lower(*arrays).compile().as_text()
    dtypes = dict(re.findall(r"%([\w.-]+) = (\w+)\[", text))
    products = re.findall(r" dot\(%([\w.-]+), %([\w.-]+)\)", text)
    return [(dtypes[one], dtypes[other]) for one, other in products]
