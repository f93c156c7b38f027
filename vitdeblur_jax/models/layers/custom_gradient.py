"""Functions with a custom gradient that keep their forward-mode derivative.

`jax.custom_vjp` disables `jax.jvp`, `jax.jacfwd` and `jax.linearize`; `with_gradient` does not.
"""

from collections.abc import Callable

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def with_gradient(
    function: Callable, forward: Callable, backward: Callable, plain: Callable | None = None
) -> Callable:
    """Returns `function` with a custom gradient; all other derivatives are those of `plain`.

    Args:
      function: Takes and returns pytrees of arrays.
      forward: Takes the same arguments; returns the outputs and the residuals for `backward`, as
        for `jax.custom_vjp`.
      backward: Takes the residuals and the gradient of the outputs; returns a tuple with the
        gradient of each argument.
      plain: Computes the same as `function`, with operations that JAX can differentiate in forward
        mode. The default is `function` itself.
    """
    plain = plain or function

    @jax.custom_jvp
    def wrapped(*args):
        return function(*args)

    @wrapped.defjvp
    def jvp(primals, tangents):
        out, kept = forward(*primals)
        flat_kept, kept_tree = jax.tree.flatten((primals, kept))
        flat_tangents, tangents_tree = jax.tree.flatten(tangents)
        flat_out, out_tree = jax.tree.flatten(out)

        def push(flat_kept, flat_tangents):
            primals, _ = kept_tree.unflatten(flat_kept)
            tangents = tangents_tree.unflatten(flat_tangents)
            return jax.tree.leaves(jax.jvp(plain, primals, tangents)[1])

        def pull(flat_kept, flat_gradients):
            _, kept = kept_tree.unflatten(flat_kept)
            return jax.tree.leaves(backward(kept, out_tree.unflatten(flat_gradients)))

        shapes = [jax.ShapeDtypeStruct(each.shape, each.dtype) for each in flat_out]
        return out, out_tree.unflatten(_linear(push, pull, flat_kept, flat_tangents, shapes))

    return wrapped


def _linear(push, pull, kept, tangents, shapes):
    """Returns push(kept, tangents), which is linear in `tangents`; its transpose is `pull`."""
    settings = {"push": push, "pull": pull, "count": len(kept), "shapes": tuple(shapes)}
    return _linear_p.bind(*kept, *tangents, **settings)


_linear_p = Primitive("linear_with_transpose")
_linear_p.multiple_results = True


@_linear_p.def_impl
def _push(*args, push, count, **_):
    return push(list(args[:count]), list(args[count:]))


@_linear_p.def_abstract_eval
def _abstract(*_, shapes, **__):
    return [jax.core.ShapedArray(each.shape, each.dtype) for each in shapes]


def _transposed(cotangents, *args, pull, count, shapes, **_):
    gradients = [
        jax.numpy.zeros(shape.shape, shape.dtype) if isinstance(one, ad.Zero) else one
        for one, shape in zip(cotangents, shapes, strict=True)
    ]
    found = pull(list(args[:count]), gradients)
    tangents = zip(args[count:], found, strict=True)
    return [None] * count + [x if ad.is_undefined_primal(t) else None for t, x in tangents]


def _differentiated(primals, tangents, **settings):
    def instantiated(primal, tangent):
        return jax.numpy.zeros_like(primal) if isinstance(tangent, ad.Zero) else tangent

    tangents = [instantiated(*pair) for pair in zip(primals, tangents, strict=True)]
    return jax.jvp(lambda *args: _push(*args, **settings), tuple(primals), tuple(tangents))


def _batched(args, axes, *, push, pull, count, shapes):
    size = next(x.shape[axis] for x, axis in zip(args, axes, strict=True) if axis is not None)
    kept_axes = list(axes[:count])
    tangents = [
        batching.bdim_at_front(x, axis, size)
        for x, axis in zip(args[count:], axes[count:], strict=True)
    ]
    shapes = [jax.ShapeDtypeStruct((size, *each.shape), each.dtype) for each in shapes]
    in_axes = (kept_axes, 0)
    found = _linear(
        jax.vmap(push, in_axes, axis_size=size),
        jax.vmap(pull, in_axes, axis_size=size),
        list(args[:count]),
        tangents,
        shapes,
    )
    return found, [0] * len(found)


ad.primitive_transposes[_linear_p] = _transposed
ad.primitive_jvps[_linear_p] = _differentiated
batching.primitive_batchers[_linear_p] = _batched
mlir.register_lowering(_linear_p, mlir.lower_fun(_push, multiple_results=True))
