"""Matrix products in bfloat16 that XLA:CPU computes in bfloat16.

XLA:CPU uses a processor's instructions for bfloat16 only if the result of a product is float32 and
its first factor is not transposed. It computes all other products in float32, among them those of
`flax.linen.Dense` and of its gradients.

`python -m benchmarks.cpu_forms`, on two cores with AVX-512 and its bfloat16 instructions: Flax's
layer takes 1.4 to 1.6 times as long forward and 1.8 to 2.7 times with the gradient.

Delete this file, and use `flax.linen.Dense` on all platforms, when all its lines of that command
say so on a processor with bfloat16 instructions.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from vitdeblur_jax.models.layers.custom_gradient import with_gradient


def dense_on_cpu(
    params: dict[str, Float[Array, "..."]], x: Float[Array, "*batch width"]
) -> Float[Array, "*batch features"]:
    """Returns x @ kernel + bias in the half precision of `x`, as `flax.linen.Dense` does.

    The bias is added in float32, and its gradient is summed in float32; XLA:CPU would sum it in
    bfloat16.
    """
    rows = product_on_cpu(x.reshape(-1, x.shape[-1]), params["kernel"].astype(x.dtype))
    if "bias" in params:
        rows += params["bias"]
    return rows.astype(x.dtype).reshape(*x.shape[:-1], -1)


def product_on_cpu(
    a: Float[Array, "*batch rows width"],
    b: Float[Array, "*batch width columns"] | Float[Array, "*batch columns width"],
    transposed: bool = False,
    precision: str | None = None,
) -> Float32[Array, "*batch rows columns"]:
    """Returns a @ b, or a @ b^T with `transposed`, as float32.

    In half precision, XLA:CPU also computes the products of the gradient in half precision.
    `precision` has no effect there: float32 represents products of two bfloat16 values exactly.
    """
    if a.dtype.itemsize != 2:
        return _dot(a, b, transposed, precision)
    product = functools.partial(_dot, transposed=transposed)
    backward = functools.partial(_backward, transposed)
    return with_gradient(product, lambda *factors: (product(*factors), factors), backward)(a, b)


def product_of_columns(
    a: Float[Array, "*batch rows width"],
    b: Float[Array, "*batch rows columns"],
    precision: str | None = None,
) -> Float32[Array, "*batch width columns"]:
    """Returns a^T @ b as float32; in half precision, transposes the narrower factor in memory."""
    if a.dtype.itemsize != 2:
        return _dot(a, b, precision=precision, contracted=(a.ndim - 2, b.ndim - 2))
    if a.shape[-1] > b.shape[-1]:
        return jnp.swapaxes(product_of_columns(b, a), -1, -2)
    # A row of padding prevents XLA from folding the transposition into the product, which it would
    # then compute in float32.
    no_padding = [(0, 0)] * (a.ndim - 2)
    padded = jnp.pad(jnp.swapaxes(a, -1, -2), [*no_padding, (0, 1), (0, 0)])
    return _dot(padded, b)[..., :-1, :]


def _dot(a, b, transposed=False, precision="default", contracted=None):
    batch = tuple(range(a.ndim - 2))
    one, other = contracted or (a.ndim - 1, b.ndim - 1 if transposed else b.ndim - 2)
    return jax.lax.dot_general(a, b, (((one,), (other,)), (batch, batch)), precision, jnp.float32)


def _backward(transposed, factors, gradient):
    """Returns the gradients of both factors, from products with an untransposed first factor."""
    a, b = factors
    gradient = gradient.astype(a.dtype)
    of_a = _dot(gradient, b, not transposed)
    of_b = product_of_columns(gradient, a) if transposed else product_of_columns(a, gradient)
    return of_a.astype(a.dtype), of_b.astype(b.dtype)
