import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitdeblur_jax.models.layers.cpu_remat import gradient_computed_once, remat_on_cpu
from vitdeblur_jax.models.layers.transformer_block import transformer_blocks
from vitdeblur_jax.training.step import SAVE_MEMORY_ON_CPU


class _Blocks(nn.Module):
    remat: bool
    depth: int = 6

    def setup(self):
        self.blocks = transformer_blocks(self.depth, self.remat, width=32, num_heads=2)

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def _compiled_gradient(remat, x, depth=6):
    model = _Blocks(remat, depth)
    variables = model.init(jax.random.key(0), x)
    gradient = jax.jit(jax.grad(lambda v, x: (model.apply(v, x) ** 2).sum(), argnums=(0, 1)))
    options = SAVE_MEMORY_ON_CPU if jax.default_backend() == "cpu" else None
    return gradient.lower(variables, x).compile(compiler_options=options), variables


@pytest.mark.usefixtures("optimized")
@pytest.mark.slow
def test_the_backward_pass_keeps_less_and_gives_the_same():
    x = jnp.array(np.random.default_rng(0).standard_normal((2, 200, 32)), jnp.float32)
    (kept, variables), (anew, _) = (_compiled_gradient(flag, x) for flag in (False, True))
    sizes = [one.memory_analysis().temp_size_in_bytes for one in (anew, kept)]
    assert sizes[0] < 0.5 * sizes[1]
    pairs = zip(*map(jax.tree.leaves, (kept(variables, x), anew(variables, x))), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5 * np.abs(one).max())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_of_both_arguments_match_without_it(dtype):
    def function(params, x):
        return jnp.tanh(x @ params)

    rng = np.random.default_rng(0)
    params, x = (jnp.array(rng.standard_normal((3, 3)), dtype) for _ in range(2))
    gradients = [
        jax.jit(jax.grad(lambda p, x, f=f: (f(p, x) ** 2).sum(), argnums=(0, 1)))(params, x)
        for f in (function, remat_on_cpu(function))
    ]
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_array_equal(np.float32(one), np.float32(other))


@pytest.mark.usefixtures("optimized")
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="how XLA fuses on a CPU")
@pytest.mark.slow
def test_no_block_adds_up_the_gradients_of_those_behind_it():
    """A fusion that did would take in what each of them adds: more, the more blocks there are."""
    x = jnp.array(np.random.default_rng(0).standard_normal((2, 50, 32)), jnp.float32)
    most = []
    for depth in (3, 9):
        compiled, _ = _compiled_gradient(False, x, depth)
        operands = re.findall(r" fusion\((.*?)\), kind=", compiled.as_text())
        assert operands
        most.append(max(found.count("%") for found in operands))
    assert most[0] > 1  # else the pattern has found nothing
    assert most[1] <= most[0] + 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_other_platforms_use_flax_remat(dtype, monkeypatch):
    x = jnp.array(np.random.default_rng(0).standard_normal((2, 5, 32)), dtype)
    variables = jax.jit(_Blocks(False, 1).init)(jax.random.key(0), x)

    def gradient(remat):
        blocks = _Blocks(remat, 1)
        return lambda v: jax.grad(lambda v: (blocks.apply(v, x) ** 2).astype("f4").sum())(v)

    on_cpu = str(jax.make_jaxpr(gradient(True))(variables))
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    elsewhere = str(jax.make_jaxpr(gradient(True))(variables))
    assert elsewhere.count("remat") > on_cpu.count("remat")
    found, expected = (jax.jit(gradient(remat))(variables) for remat in (True, False))
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())


def test_a_gradient_computed_once_is_the_same_forwards_and_backwards():
    x, direction = jnp.array(np.random.default_rng(0).standard_normal((2, 3, 4, 5)), jnp.float32)

    def function(x):
        return (jnp.sin(gradient_computed_once(x)) ** 2).sum()

    expected = np.sin(2 * np.float64(x))
    np.testing.assert_allclose(jax.grad(function)(x), expected, atol=1e-6)
    forwards = jax.jvp(function, (x,), (direction,))[1]
    np.testing.assert_allclose(forwards, (expected * np.float64(direction)).sum(), rtol=1e-5)
    each = jax.vmap(jax.grad(function))(x)
    np.testing.assert_allclose(each, expected, atol=1e-6)
