"""Exact count of the matrix products and convolutions of a traced function.

XLA's own count includes the body of a scan only once and depends on the platform. Elementwise
functions and sums are not counted, because other units of a chip execute them.
"""

import math
from collections import Counter
from collections.abc import Iterator

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters.partial_eval import dce_jaxpr


def count_flops(traced: ClosedJaxpr, platform: str) -> Counter[str]:
    """Returns the number of additions and multiplications in all products of a function.

    The keys are the kinds of arithmetic: "bfloat16" for operands of two bytes or less, else the
    float32 precision: "default", "high" or "highest". Products that no output depends on are not
    counted. A condition counts with its most expensive branch, or with the branch of `platform` if
    the branches are for platforms.

    Args:
      traced: `jax.make_jaxpr(...)(...)`, or `.jaxpr` of a traced jitted function.
      platform: "cpu", "cuda" or "tpu".

    Raises:
      ValueError: There are products in a while loop, whose number of iterations is unknown.
    """
    needed, _ = dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars))
    return _count(needed, platform)


def _count(jaxpr: Jaxpr, platform: str) -> Counter[str]:
    total = Counter()
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            total[_kind(equation)] += dot_flops(equation)
        elif name == "conv_general_dilated":
            total[_kind(equation)] += convolution_flops(equation)
        elif name == "cond":
            total += _of_branches(equation, platform)
        else:
            inner = sum((_count(part, platform) for part in _inside(equation)), Counter())
            if name == "while" and inner:
                raise ValueError("products in a while loop with an unknown number of iterations")
            turns = equation.params["length"] if name == "scan" else 1
            total += Counter({kind: turns * flops for kind, flops in inner.items()})
    return total


def _of_branches(equation, platform) -> Counter[str]:
    branches = [_count(part, platform) for part in _inside(equation)]
    platforms = equation.params.get("branches_platforms")
    if platforms is None:
        return max(branches, key=lambda branch: branch.total())
    # None is the default branch, which comes last.
    chosen = (i for i, names in enumerate(platforms) if names is None or platform in names)
    return branches[next(chosen)]


def _inside(equation) -> Iterator[Jaxpr]:
    for value in equation.params.values():
        for part in value if isinstance(value, (tuple, list)) else [value]:
            if isinstance(part, (Jaxpr, ClosedJaxpr)):
                yield getattr(part, "jaxpr", part)


def _kind(equation) -> str:
    if equation.invars[0].aval.dtype.itemsize <= 2:
        return "bfloat16"
    precision = equation.params["precision"]
    given = precision if isinstance(precision, tuple) else (precision,)
    return max((jax.lax.Precision(each) for each in given), key=lambda p: p.value).name.lower()


def dot_flops(equation) -> int:
    """Returns twice the size of the result times the length of the contracted axes."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return 2 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)


def convolution_flops(equation) -> int:
    """Returns two per product with a value of the input; padding and dilation zeros do not count.

    So each gradient of a convolution has the count of the convolution itself.
    """
    params = equation.params
    left, right = (variable.aval.shape for variable in equation.invars)
    out = equation.outvars[0].aval.shape
    left_spec, right_spec, out_spec = params["dimension_numbers"]
    taps = 1
    for axis, padding in enumerate(params["padding"]):
        taps *= _pairs(
            left[left_spec[2 + axis]],
            right[right_spec[2 + axis]],
            out[out_spec[2 + axis]],
            params["window_strides"][axis],
            padding[0],
            params["lhs_dilation"][axis],
            params["rhs_dilation"][axis],
        )
    batch, features, channels = out[out_spec[0]], out[out_spec[1]], right[right_spec[1]]
    return 2 * taps * batch * features * channels


def _pairs(length, kernel, out, stride, padding, holes, kernel_holes) -> int:
    """Returns the number of (output, kernel) index pairs along an axis that hit an input value."""
    places = (
        position * stride + tap * kernel_holes - padding
        for position in range(out)
        for tap in range(kernel)
    )
    return sum(place % holes == 0 and 0 <= place < length * holes for place in places)
