"""What the backward pass computes again, and what only once."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float


def rematerialized(
    function: Callable[[Any, Float[Array, "..."]], Float[Array, "..."]],
) -> Callable[[Any, Float[Array, "..."]], Float[Array, "..."]]:
    """Returns `function` of parameters and an array, which its backward pass computes once more.

    Only the arguments are kept for the backward pass. `jax.checkpoint` does the same, but XLA drops
    its barrier on a CPU, and then recomputes everything before it needs any of it: no memory is
    saved. Here the recomputation takes in a zero that only the gradient's arrival can give. It has
    no forward-mode derivative.
    """
    computed = jax.custom_vjp(function)

    def forward(params, x):
        return function(params, x), (params, x)

    def backward(kept, gradient):
        params, x = jax.lax.optimization_barrier(kept)
        arrived = 0 * gradient[(0,) * gradient.ndim]
        _, pull_back = jax.vjp(function, params, x + arrived.astype(x.dtype))
        return pull_back(gradient)

    computed.defvjp(forward, backward)
    return computed


@jax.custom_jvp
def gradient_computed_once(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns `x`; on a CPU, XLA computes its gradient once, however often that is used.

    The gradient along residual blocks is a sum that grows by each block. XLA's fusion for CPUs
    deems sums and products so cheap that each user may compute them again, and thus adds up the
    whole chain anew, several times in each block. A division it deems dear and does not repeat; so
    the gradient is divided by a 1 that only the data can tell. Where `x` is infinite or NaN, the
    gradient on a CPU is therefore NaN.
    """
    return x


@gradient_computed_once.defjvp
def _divided_on_cpu(primals, tangents):
    (x,), (tangent,) = primals, tangents

    def divided(tangent, x):
        return tangent / (1 + 0 * x)  # an array: XLA would multiply by the inverse of a scalar

    def as_it_is(tangent, _):
        return tangent

    return x, jax.lax.platform_dependent(tangent, x, cpu=divided, default=as_it_is)
