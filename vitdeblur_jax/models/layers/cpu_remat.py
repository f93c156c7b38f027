"""Recomputation in the backward pass that saves memory on XLA:CPU, and gradients computed once.

Two faults of XLA:CPU. It drops the optimization barriers of `jax.checkpoint`, and then recomputes
all blocks before it needs the first: no memory is saved. And its fusion recomputes what it deems
cheap in each place that uses it, so that each residual block adds up the gradients of all blocks
behind it anew.

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
    """Returns `function` of parameters and an array; its backward pass recomputes it.

    The backward pass keeps only the arguments, as with `jax.checkpoint`. The recomputation adds a
    zero to the array that depends on the incoming gradient, so it cannot start before.
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
    """Returns `x`; a CPU computes its gradient once, however often it is used.

    XLA:CPU repeats sums and products in each of their users, but not divisions. So this divides the
    gradient by a 1 whose value only the data tells. If `x` is infinite or NaN, the gradient on a
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
