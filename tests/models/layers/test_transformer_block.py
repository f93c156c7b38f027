import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import ScopeParamShapeError

from vitdeblur_jax.models.layers.dense import Dense
from vitdeblur_jax.models.layers.transformer_block import transformer_blocks

CASES = [("float32", False), ("float32", True), ("bfloat16", False), ("bfloat16", True)]
BOUNDS = {"float32": 1e-4, "bfloat16": 0.05}
RNG = np.random.default_rng(0)
X, DIRECTION, WEIGHTS = (RNG.standard_normal((2, 5, 8)).astype("f4") for _ in range(3))


class _Block(nn.Module):
    dtype: str
    remat: bool

    def setup(self):
        (self.block,) = transformer_blocks(1, self.remat, width=8, num_heads=2, dtype=self.dtype)

    def __call__(self, x):
        return self.block(jnp.asarray(x, self.dtype)).astype("float32")


@functools.cache
def block(dtype, remat):
    module = _Block(dtype, remat)
    variables = jax.jit(_Block("float32", False).init)(jax.random.key(0), X)
    return lambda x: module.apply(variables, x)


@pytest.mark.parametrize(("dtype", "remat"), CASES)
def test_derivatives_in_both_modes_match_finite_differences(dtype, remat):
    """The differences are those of float32."""

    @jax.jit
    def derivatives(x, direction):
        function = block(dtype, remat)
        tangent = jax.jvp(function, (x,), (direction,))[1]
        gradient = jax.grad(lambda x: (WEIGHTS * function(x)).sum())(x)
        return (WEIGHTS * tangent).sum(), (gradient * direction).sum()

    function, step = jax.jit(block("float32", False)), 1e-2
    ends = (function(X + sign * step * DIRECTION) for sign in (1, -1))
    expected = np.subtract(*(np.vdot(WEIGHTS, np.float64(end)) for end in ends)) / (2 * step)
    forward, reverse = derivatives(X, DIRECTION)
    bound = BOUNDS[dtype]
    np.testing.assert_allclose(forward, reverse, rtol=bound)
    np.testing.assert_allclose(forward, expected, rtol=2e-3 + bound)


@pytest.mark.parametrize(("dtype", "remat"), CASES)
def test_jacfwd_vmap_and_remat_policies(dtype, remat):
    function = block(dtype, remat)
    jacobian = jax.eval_shape(jax.jacfwd(lambda step: function(X + step * DIRECTION)), 0.0)
    assert jacobian.shape == X.shape
    assert jax.eval_shape(jax.vmap(function), np.stack(3 * [X])).shape == (3, *X.shape)
    for policy in ("dots_saveable", "dots_with_no_batch_dims_saveable"):
        policy = getattr(jax.checkpoint_policies, policy)
        again = jax.checkpoint(lambda x: function(x).sum(), policy=policy)
        assert jax.eval_shape(jax.grad(again), X).shape == X.shape


@pytest.mark.parametrize(("dtype", "remat"), CASES)
def test_a_table_with_flops(dtype, remat):
    settings = {"compute_flops": True, "console_kwargs": {"width": 200}}
    table = _Block(dtype, remat).tabulate(jax.random.key(0), X, **settings)
    for layer in ("qkv", "fc2", "mlp_norm"):
        assert layer in table
    assert "flops" in table


def test_an_applied_dense_layer_checks_its_shape_without_its_initializer():
    layer = Dense(3, kernel_init=lambda *_: 1 / 0)
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}
    np.testing.assert_array_equal(layer.apply({"params": params}, jnp.ones((1, 2))), [[2, 2, 2]])
    with pytest.raises(ScopeParamShapeError):
        layer.apply({"params": params}, jnp.ones((1, 4)))
