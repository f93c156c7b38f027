"""Rematerialization that saves memory on XLA:CPU, and gradients that are computed once.

This file works around two defects of XLA:CPU. First, it drops the optimization barriers of
`jax.checkpoint` and recomputes all blocks before it needs the first, which saves no memory. Second,
its fusion recomputes cheap operations in each of their users, so that each residual block repeats
the sum of the gradients of all later blocks.

`python -m benchmarks.cpu_forms`, on two cores with AVX-512: `flax.linen.remat` takes 2.0 to 2.6
times the temporary memory. Blocks without `gradient_computed_once` take 1.3 to 1.6 times as long
with the gradient, except `tiny` in bfloat16 (1.0).

Delete this file, and use `flax.linen.remat` on all platforms, when all its lines of that command
say so.
"""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.custom_gradient import with_gradient


def remat_on_cpu(
    function: Callable[[Any, Float[Array, "..."]], Float[Array, "..."]],
) -> Callable[[Any, Float[Array, "..."]], Float[Array, "..."]]:
    """Returns `function` of parameters and an array, rematerialized in its backward pass.

    As with `jax.checkpoint`, only the arguments are stored. The recomputation adds a zero that
    depends on the incoming gradient to the array, so it cannot start before that gradient exists.
    """

    def forward(params, x):
        return function(params, x), (params, x)

    def backward(kept, gradient):
        params, x = jax.lax.optimization_barrier(kept)
        arrived = 0 * gradient[(0,) * gradient.ndim]
        _, pull_back = jax.vjp(function, params, x + arrived.astype(x.dtype))
        return pull_back(gradient)

    return with_gradient(function, forward, backward)


@jax.custom_jvp
def gradient_computed_once(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns `x`; a CPU computes its gradient only once, even if it has several users.

    XLA:CPU repeats sums and products in each of their users, but not divisions. So this divides the
    gradient by 1 + 0 * x, which XLA cannot simplify. If `x` is infinite or NaN, the gradient on a
    CPU is NaN.
    """
    return x


@gradient_computed_once.defjvp
def _divided_on_cpu(primals, tangents):
    (x,), (tangent,) = primals, tangents

    def divided(tangent, x):
        return tangent / (1 + 0 * x)  # an array: XLA would multiply by the inverse of a scalar

    def unchanged(tangent, _):
        return tangent

    return x, jax.lax.platform_dependent(tangent, x, cpu=divided, default=unchanged)
