"""Checks of config values: one table per config maps each key to its rule.

    check_values(config, {
        "num_steps": integer(1),
        "optimizer.b1": number(0, 1, below_high=True),
        "data.kind": choice("pairs", "prepared"),
        "data.mixture": sequence(text()),
    })

A value that breaks its rule raises a `UserError`, such as "optimizer.b1 is nan; it must be a finite
number >= 0 and < 1".
"""

import math
import reprlib
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from vitdeblur_jax.utils.errors import UserError, nearest

_LARGEST = 2**31 - 1
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


class Rule(NamedTuple):
    """The allowed values of a key.

    Attributes:
      accepts: Returns whether a value of any type is allowed; never raises.
      wanted: The allowed values in words; completes "it must be ...".
      choices: The allowed strings, if there are only a few.
    """

    accepts: Callable[[Any], bool]
    wanted: str
    choices: tuple[str, ...] = ()


def integer(low: int, high: int = _LARGEST) -> Rule:
    """Returns the rule for integers from `low` to `high`, inclusive; it refuses bools."""
    wanted = f"an integer from {low} to {high}" if high < _LARGEST else f"an integer >= {low}"
    if high == _LARGEST:
        wanted += " and below 2^31"
    return Rule(lambda value: _is_integer(value) and low <= value <= high, wanted)


def number(
    low: float | int = -math.inf,
    high: float | int = math.inf,
    *,
    above_low: bool = False,
    below_high: bool = False,
) -> Rule:
    """Returns the rule for finite numbers in a range; it refuses bools, nan and infinity.

    Args:
      low: The smallest number allowed.
      high: The largest number allowed.
      above_low: Refuse `low` itself.
      below_high: Refuse `high` itself.
    """

    def accepts(value):
        if not isinstance(value, Real) or isinstance(value, bool):
            return False
        try:
            value = float(value)
        except OverflowError:
            return False
        in_range = low <= value <= high and math.isfinite(value)
        return in_range and not (above_low and value == low) and not (below_high and value == high)

    bounds = [f"{'>' if above_low else '>='} {low:g}"] if low > -math.inf else []
    bounds += [f"{'<' if below_high else '<='} {high:g}"] if high < math.inf else []
    return Rule(accepts, " ".join(["a finite number", " and ".join(bounds)]).strip())


def flag() -> Rule:
    """Returns the rule for True and False."""
    return Rule(lambda value: isinstance(value, bool), "True or False")


def text() -> Rule:
    """Returns the rule for any string."""
    return Rule(lambda value: isinstance(value, str), "a string")


def choice(*choices: str | int) -> Rule:
    """Returns the rule for one of a few strings or integers."""
    return Rule(
        lambda value: (
            isinstance(value, str | int) and not isinstance(value, bool) and value in choices
        ),
        f"one of {', '.join(map(str, choices))}",
        tuple(value for value in choices if isinstance(value, str)),
    )


def sequence(item: Rule, *, length: int | tuple[int, int] | None = None) -> Rule:
    """Returns the rule for tuples and lists whose items all satisfy `item`.

    Args:
      item: The rule of each item.
      length: The number of items, or its smallest and largest value; None allows any number.
    """
    low, high = (0, math.inf) if length is None else (length, length)
    if isinstance(length, tuple):
        low, high = length

    def accepts(value):
        if not isinstance(value, tuple | list) or not low <= len(value) <= high:
            return False
        return all(map(item.accepts, value))

    of = "" if length is None else f" of {low}" if low == high else f" of {low} to {high}"
    return Rule(accepts, f"a tuple{of}, each {item.wanted}")


def pair(first: Rule, second: Rule) -> Rule:
    """Returns the rule for tuples and lists of two items, each with its own rule."""

    def accepts(value):
        is_pair = isinstance(value, tuple | list) and len(value) == 2
        return is_pair and first.accepts(value[0]) and second.accepts(value[1])

    return Rule(accepts, f"a pair of {first.wanted} and {second.wanted}")


def check_values(config: Any, rules: Mapping[str, Rule], prefix: str = "") -> None:
    """Checks the type and range of every value that has a rule.

    Args:
      config: Holds the keys as attributes: a ConfigDict, a Linen module, a dataclass.
      rules: The rules by key; a dotted key names a value in a nested config.
      prefix: Prefix of the keys in the message, such as "model.".

    Raises:
      UserError: A value breaks its rule. The message names key, value and rule.
    """
    for key, rule in rules.items():
        value = config
        for part in key.split("."):
            value = getattr(value, part)
        if not rule.accepts(value):
            near = nearest(value, rule.choices) if isinstance(value, str) else ""
            raise UserError(f"{prefix}{key} is {shown(value)}{near}; it must be {rule.wanted}")


def check_paths(config: Any, known: Iterable[str], prefix: str = "") -> None:
    """Checks that a config has exactly the expected keys.

    Args:
      config: A ConfigDict; nested ConfigDicts are groups of keys.
      known: The dotted path of each key. The groups themselves are not listed.
      prefix: Prefix of the keys in the message, such as "model.".

    Raises:
      UserError: A key is unknown (the message names the nearest one), a key is missing, or a plain
        value replaces a group of keys.
    """
    if not isinstance(config, ConfigDict):
        raise UserError(f"the config is {shown(config)}; it must be an ml_collections.ConfigDict")
    known = list(known)
    groups = {path[:place] for path in known for place, sign in enumerate(path) if sign == "."}
    found = set(_paths(config, groups, prefix=prefix))
    prefixed = [f"{prefix}{path}" for path in known]
    check_keys(sorted(found), prefixed, "the config")
    missing = [path for path in prefixed if path not in found]
    if missing:
        raise UserError(f"the config lacks the key {missing[0]!r}")


def _paths(config, groups, inside="", prefix=""):
    for key, value in config.items():
        path = f"{inside}{key}"
        if path not in groups:
            yield f"{prefix}{path}"
        elif isinstance(value, ConfigDict):
            yield from _paths(value, groups, f"{path}.", prefix)
        else:
            raise UserError(f"{prefix}{path} is {shown(value)}; it must be a group of keys")


def check_keys(keys: Iterable[Any], known: Iterable[str], what: str) -> None:
    """Raises `UserError` for the first of `keys` that is not in `known`.

    `what` names the owner of the keys in the message.
    """
    known = list(known)
    for key in keys:
        if key not in known:
            near = _nearest_key(key, known) if isinstance(key, str) else ""
            raise UserError(f"{what} has no key {shown(key)}{near}")


def _nearest_key(key, known):
    """Returns `nearest` of a dotted key; keys of the same group are compared by their last part."""
    group = key[: key.rfind(".") + 1]
    names = [name.removeprefix(group) for name in known if name.startswith(group)]
    return nearest(key.removeprefix(group), names, group) if names else nearest(key, known)


def shown(value: Any) -> str:
    """Returns a short, one-line text of any value, for a message."""
    try:
        said = _SHORT.repr(value)
    except Exception:  # an integer of over 4300 digits, or a repr that fails
        said = f"a value of type {type(value).__name__}"
    return " ".join(said.split())[:100]


def _is_integer(value):
    return isinstance(value, Integral) and not isinstance(value, bool)
