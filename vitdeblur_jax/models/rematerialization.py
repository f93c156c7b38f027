"""Rematerialisation that holds on every platform, the CPU among them."""

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
