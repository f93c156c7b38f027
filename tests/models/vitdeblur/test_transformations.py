"""JAX's and Flax's transformations of the model, in both dtypes, with and without `remat`.

The slow ones have fast tests of one block in `tests/models/layers/test_transformer_block.py`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.small_model import small_pretrained

CASES = [("float32", False), ("float32", True), ("bfloat16", False), ("bfloat16", True)]
BOUNDS = {"float32": 1e-4, "bfloat16": 0.05}
SHAPE = (1, 42, 42, 3)
IMAGE, DIRECTION, WEIGHTS = (
    np.random.default_rng(seed).random(SHAPE, np.float32) for seed in range(3)
)


@functools.cache
def small_with(dtype="float32", remat=False):
    return small_pretrained(dtype=dtype, remat=remat)


def restored(pretrained, image):
    return pretrained.model.apply(pretrained.variables, image)


@functools.cache
def forward_mode(dtype, remat):
    function = functools.partial(restored, small_with(dtype, remat))
    return jax.jit(lambda image, direction: jax.jvp(function, (image,), (direction,)))(
        IMAGE, DIRECTION
    )


@functools.cache
def gradient(dtype, remat):
    function = functools.partial(restored, small_with(dtype, remat))
    return jax.jit(jax.grad(lambda image: (WEIGHTS * function(image)).sum()))(IMAGE)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "remat"), CASES)
def test_forward_mode_agrees_with_reverse_mode(dtype, remat):
    _, tangent = forward_mode(dtype, remat)
    assert tangent.dtype == jnp.float32
    found, expected = (WEIGHTS * tangent).sum(), (gradient(dtype, remat) * DIRECTION).sum()
    np.testing.assert_allclose(found, expected, rtol=BOUNDS[dtype])


@pytest.mark.slow
def test_forward_mode_agrees_with_finite_differences():
    function = jax.jit(functools.partial(restored, small_with()))
    step = 1e-2
    difference = function(IMAGE + step * DIRECTION) - function(IMAGE - step * DIRECTION)
    _, expected = forward_mode("float32", False)
    bound = 2e-3 * np.abs(expected).max()
    np.testing.assert_allclose(difference / (2 * step), expected, rtol=0, atol=bound)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "remat"), CASES)
def test_jacfwd_and_vmap(dtype, remat):
    function = functools.partial(restored, small_with(dtype, remat))
    jacobian = jax.jit(jax.jacfwd(lambda step: function(IMAGE + step * DIRECTION)))(0.0)
    out, tangent = forward_mode(dtype, remat)
    bound = BOUNDS[dtype] * np.abs(tangent).max()
    np.testing.assert_allclose(jacobian, tangent, rtol=0, atol=bound)
    batched = jax.jit(jax.vmap(function))(np.stack([IMAGE, DIRECTION]))
    np.testing.assert_allclose(batched[0], out, rtol=0, atol=BOUNDS[dtype] * np.abs(out).max())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize(
    "policy", ["nothing_saveable", "everything_saveable", "dots_with_no_batch_dims_saveable"]
)
def test_remat_policies(dtype, policy):
    function = functools.partial(restored, small_with(dtype))
    again = jax.checkpoint(function, policy=getattr(jax.checkpoint_policies, policy))
    found = jax.jit(jax.grad(lambda image: (WEIGHTS * again(image)).sum()))(IMAGE)
    expected = gradient(dtype, False)
    bound = 0.2 * BOUNDS[dtype] * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


@pytest.mark.parametrize(("dtype", "remat"), CASES)
def test_intermediates_of_all_layers(dtype, remat):
    model, variables = small_with(dtype, remat).model, small_with().variables
    capture = {"capture_intermediates": True, "mutable": "intermediates"}
    _, state = jax.eval_shape(functools.partial(model.apply, variables, **capture), IMAGE)
    kept = state["intermediates"]
    for part in ("primary_encoder", "contextual_encoder", "decoder"):
        block = kept[part]["blocks_0"]
        for layer in (block, block["attention"]["qkv"], block["mlp"]["fc2"], block["mlp_norm"]):
            (out,) = layer["__call__"]
            assert out.dtype == dtype


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "remat"), CASES)
def test_a_table_with_flops(dtype, remat, monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    model = small_with(dtype, remat).model
    settings = {"depth": 1, "console_kwargs": {"width": 200}, "compute_flops": True}
    table = model.tabulate(jax.random.key(0), jnp.zeros((1, 46, 46, 3)), **settings)
    assert "image_head" in table
    assert "flops" in table
