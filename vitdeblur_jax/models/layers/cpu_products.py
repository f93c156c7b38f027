"""Matrix products, and the one place that chooses how they are computed."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32


def linear(
    x: Float[Array, "*batch width"],
    kernel: Float[Array, "width features"],
    bias: Float[Array, " features"] | None = None,
    precision: str | None = None,
) -> Float[Array, "*batch features"]:
    """Returns x @ kernel + bias in the dtype of `x`."""
    default = functools.partial(_linear, precision=precision)
    if x.dtype.itemsize == 2:
        on_cpu = _half_linear_on_cpu
        return jax.lax.platform_dependent(x, kernel, bias, cpu=on_cpu, default=default)
    return default(x, kernel, bias)


def _linear(x, kernel, bias, precision):
    product = jnp.matmul(x, kernel, precision=precision)
    return product if bias is None else product + bias.astype(x.dtype)


def _half_linear_on_cpu(x, kernel, bias):
    rows = _half_product(x.reshape(-1, x.shape[-1]), kernel, False).astype(x.dtype)
    product = rows.reshape(*x.shape[:-1], -1)
    return product if bias is None else product + _repeated(bias.astype(x.dtype), product.shape)


def product_on_cpu(
    a: Float[Array, "*batch rows width"],
    b: Float[Array, "*batch width columns"] | Float[Array, "*batch columns width"],
    transposed: bool = False,
    precision: str | None = None,
) -> Float32[Array, "*batch rows columns"]:
    """Returns a @ b, or a @ b^T with `transposed`, as float32; in half precision a CPU's fast way.

    Processors with instructions for bfloat16 multiply several times as fast as in float32, but XLA
    uses them only for a product whose result is float32, whose precision is the default, and of
    which at most the second factor was transposed; all others it computes in float32. So half
    precision has a gradient of its own here, of such products alone, and no forward-mode
    derivative. Products of bfloat16 are exact in float32: `precision` has nothing to add to them.
    """
    if a.dtype.itemsize == 2:
        return _half_product(a, b, transposed)
    return _dot(a, b, transposed, precision)


def _dot(a, b, transposed, precision="default"):
    batch = tuple(range(a.ndim - 2))
    contracted = ((a.ndim - 1,), (b.ndim - 1 if transposed else b.ndim - 2,))
    return jax.lax.dot_general(a, b, (contracted, (batch, batch)), precision, jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _half_product(a, b, transposed):
    return _dot(a, b, transposed)


def _half_product_forward(a, b, transposed):
    return _dot(a, b, transposed), (a, b)


def _half_product_backward(transposed, factors, gradient):
    a, b = factors
    gradient = gradient.astype(a.dtype)
    of_a = _dot(gradient, b, not transposed)
    of_b = _dot_of_columns(gradient, a) if transposed else _dot_of_columns(a, gradient)
    return of_a.astype(a.dtype), of_b.astype(b.dtype)


_half_product.defvjp(_half_product_forward, _half_product_backward)


def _dot_of_columns(a, b):
    """Returns a^T @ b. The narrower of the two is really transposed, in memory."""
    if a.shape[-1] > b.shape[-1]:
        return jnp.swapaxes(_dot_of_columns(b, a), -1, -2)
    # Through a row of padding XLA does not see that it could leave the transposition to the
    # product, which it would then compute in float32.
    no_padding = [(0, 0)] * (a.ndim - 2)
    padded = jnp.pad(jnp.swapaxes(a, -1, -2), [*no_padding, (0, 1), (0, 0)])
    return _dot(padded, b, transposed=False)[..., :-1, :]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _repeated(vector, shape):
    """Returns the vector broadcast to `shape`; its gradient is summed up by a product.

    XLA's own sum over the rows of a large matrix takes several times as long on a CPU.
    """
    return jnp.broadcast_to(vector, shape)


def _repeated_backward(shape, _, gradient):
    rows = gradient.reshape(-1, shape[-1])
    ones = jnp.ones((1, len(rows)), rows.dtype)
    return (_dot(ones, rows, transposed=False)[0].astype(gradient.dtype),)


_repeated.defvjp(lambda vector, shape: (_repeated(vector, shape), None), _repeated_backward)
