"""Learning rate multipliers by parameter path; parameters with multiplier 0 are frozen.

`lr_mults` is a sequence of pairs (regular expression, multiplier). A pattern is matched against the
whole path of a parameter, its names joined by "/", such as "head/conv/kernel". The first pattern
that matches wins; parameters that no pattern matches have multiplier 1:

    (("head/.*", 0.1), (".*/bias", 0.0))

Source: `lr_mults` of big_vision (Beyer, Zhai, Kolesnikov 2022).
"""

import re
from collections.abc import Iterable, Sequence

import optax
from flax import traverse_util

from vitdeblur_jax.utils.config_checks import Rule, number, sequence
from vitdeblur_jax.utils.errors import UserError, nearest

LrMults = Sequence[Sequence[str | float | int]]

_MULTIPLIER = number(0, 1e6)


def _is_lr_mult(value):
    if not isinstance(value, tuple | list) or len(value) != 2 or not isinstance(value[0], str):
        return False
    try:
        re.compile(value[0])
    except (re.error, OverflowError, RecursionError):
        return False
    return _MULTIPLIER.accepts(value[1])


RULE = sequence(Rule(_is_lr_mult, ""))._replace(
    wanted='pairs of a regular expression and a number from 0 to 1e6, such as (("head/.*", 0.1),)'
)


def scale_by_lr_mults(lr_mults: LrMults) -> optax.GradientTransformation:
    """Returns the transformation that multiplies each update by its parameter's multiplier."""

    def scale(updates, _):
        leaves = traverse_util.flatten_dict(updates, sep="/")
        scaled = {path: _multiplier(path, lr_mults) * leaf for path, leaf in leaves.items()}
        return traverse_util.unflatten_dict(scaled, sep="/")

    return optax.stateless(scale)


def _multiplier(path, lr_mults):
    matching = (multiplier for pattern, multiplier in lr_mults if re.fullmatch(pattern, path))
    return next(matching, 1.0)


def frozen_by_lr_mults(params: dict, lr_mults: LrMults) -> tuple[tuple[str, ...], ...]:
    """Returns the paths of the parameters whose multiplier is 0, as tuples of names.

    Args:
      params: All parameters of the network, or their shapes, as a nested dict.
      lr_mults: See above.

    Raises:
      UserError: A pattern has no effect, or all multipliers are 0.
    """
    paths = list(traverse_util.flatten_dict(params, sep="/"))
    rest = paths
    for pattern, _ in lr_mults:
        others = [path for path in rest if not re.fullmatch(pattern, path)]
        if len(others) == len(rest):
            raise UserError(f"optimizer.lr_mults: {_why_no_effect(pattern, paths)}")
        rest = others
    frozen = [path for path in paths if _multiplier(path, lr_mults) == 0]
    if len(frozen) == len(paths):
        raise UserError(
            "optimizer.lr_mults is 0 for all parameters, so nothing would be trained; raise one of "
            "the multipliers above 0"
        )
    return tuple(tuple(path.split("/")) for path in frozen)


def _why_no_effect(pattern, paths):
    if any(re.fullmatch(pattern, path) for path in paths):
        return f"{pattern!r} has no effect: earlier patterns match all its parameters; move it up"
    modules = [name for name in modules_and_params(paths) if name not in paths]
    patterns = [*(f"{module}/.*" for module in modules), *paths]
    return f"{pattern!r} matches no parameter{nearest_path(pattern, patterns)}"


def modules_and_params(paths: Iterable[str]) -> list[str]:
    """Returns the paths of all parameters and of the modules that hold them."""
    names = [path.split("/") for path in paths]
    return list(dict.fromkeys("/".join(n[:k]) for n in names for k in range(1, len(n) + 1)))


def nearest_path(name: str, paths: Iterable[str]) -> str:
    """Returns the end of an error message, which names the path nearest to a wrong one."""
    paths = list(paths)
    inner = [path for path in paths if path.endswith(f"/{name}")]
    near = f" (did you mean {inner[0]!r}?)" if inner else nearest(name, paths)
    tops = dict.fromkeys(path.split("/")[0] for path in paths)
    return near or f"; the parameters are in {', '.join(tops)}"
