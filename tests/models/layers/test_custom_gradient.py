import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitdeblur_jax.models.layers.custom_gradient import with_gradient


def _tripled(gradient):
    return 3 * gradient


@pytest.fixture
def sine():
    """X sin(y), whose gradient is marked by a factor of 3."""

    def function(x, y):
        return x * jnp.sin(y)

    def forward(x, y):
        return function(x, y), (x, y)

    def backward(kept, gradient):
        return tuple(map(_tripled, jax.vjp(function, *kept)[1](gradient)))

    return with_gradient(function, forward, backward)


X, Y = (jax.device_put(np.random.default_rng(seed).standard_normal(5)) for seed in (0, 1))


def test_its_gradient_is_its_own_and_its_tangent_is_plain(sine):
    of_x, of_y = jax.grad(lambda x, y: sine(x, y).sum(), (0, 1))(X, Y)
    np.testing.assert_allclose(of_x, 3 * np.sin(Y), rtol=1e-5)
    np.testing.assert_allclose(of_y, 3 * X * np.cos(Y), rtol=1e-5)
    out, tangent = jax.jvp(sine, (X, Y), (Y, X))
    np.testing.assert_allclose(out, X * np.sin(Y), rtol=1e-5)
    np.testing.assert_allclose(tangent, Y * np.sin(Y) + X * X * np.cos(Y), rtol=1e-5)
    jacobian = jax.jacfwd(sine, 1)(X, Y)
    np.testing.assert_allclose(jacobian, np.diag(X * np.cos(Y)), atol=1e-6)


def test_one_argument_alone(sine):
    np.testing.assert_allclose(
        jax.grad(lambda y: sine(X, y).sum())(Y), 3 * X * np.cos(Y), rtol=1e-5
    )


def test_batches(sine):
    """The gradient stays its own inside and outside of `jax.vmap`."""
    each = jax.vmap(jax.grad(sine, 1))(X, Y)
    np.testing.assert_allclose(each, 3 * X * np.cos(Y), rtol=1e-5)
    of_scalar, of_array = jax.grad(
        lambda x, y: jax.vmap(sine, (None, 0))(x, y).sum(), argnums=(0, 1)
    )(X[0], Y)
    np.testing.assert_allclose(of_scalar, 3 * np.sin(Y).sum(), rtol=1e-5)
    np.testing.assert_allclose(of_array, 3 * X[0] * np.cos(Y), rtol=1e-5)


def test_second_derivatives(sine):
    """Those of the gradient, in both modes, inside of a loop too."""

    def total(y):
        return jax.lax.map(lambda pair: sine(*pair), (X, y)).sum()

    _, forward = jax.jvp(jax.grad(total), (Y,), (X,))
    np.testing.assert_allclose(forward, -3 * X * np.sin(Y) * X, rtol=1e-5)
    backward = jax.grad(lambda y: (jax.grad(total)(y) * X).sum())(Y)
    np.testing.assert_allclose(backward, -3 * X * np.sin(Y) * X, rtol=1e-5)


def test_remat_uses_it(sine):
    gradient = jax.grad(lambda y: jax.checkpoint(sine)(X, y).sum())(Y)
    np.testing.assert_allclose(gradient, 3 * X * np.cos(Y), rtol=1e-5)
