"""The table of config values: what each rule lets through, and what the refusal says."""

import math
from types import SimpleNamespace

import ml_collections
import numpy as np
import pytest

from vitdeblur_jax.utils.config_checks import (
    check_keys,
    check_values,
    choice,
    flag,
    integer,
    number,
    sequence,
    text,
)
from vitdeblur_jax.utils.errors import UserError

NOT_NUMBERS = [None, "1", "many", math.nan, math.inf, -math.inf, True, (1,), 1j, 10**5000, object()]
RULES = {
    "integer": (integer(1, 8), [1, 8, np.int64(3)], [0, 9, 2**62, 10**30, 2.0, *NOT_NUMBERS]),
    "open integer": (integer(0), [0, 2**31 - 1], [-1, 2**31, 2**70, *NOT_NUMBERS]),
    "number": (number(0, 1), [0, 1, 0.5, np.float32(0.1)], [-0.1, 1.1, 10**400, *NOT_NUMBERS]),
    "open number": (number(0, 1, above_low=True, below_high=True), [0.5], [0, 1, *NOT_NUMBERS]),
    "any number": (number(), [-1e300, 0, 1e300], NOT_NUMBERS),
    "flag": (flag(), [True, False], [0, 1, "True", None, math.nan]),
    "text": (text(), ["", "a"], [None, 1, b"a", ("a",)]),
    "choice": (choice("cosine", "constant"), ["cosine"], ["cosin", None, 1, ("cosine",), []]),
    "sequence": (sequence(integer(1), length=2), [(1, 2), [3, 4]], [(1,), (1, 0), (1, "2"), 12]),
    "bounded length": (
        sequence(text(), length=(1, 2)),
        [("a",), ["a"] * 2],
        [(), ("a",) * 3, (1,)],
    ),
    "any length": (sequence(text()), [(), ("a",)], ["a", (1,), None]),
}


@pytest.mark.parametrize("name", RULES)
def test_each_rule_checks_type_range_and_finiteness(name):
    rule, good, bad = RULES[name]
    for value in good:
        check_values(SimpleNamespace(key=value), {"key": rule})
    for value in bad:
        with pytest.raises(UserError, match=r"^key is .*; it must be ") as refusal:
            check_values(SimpleNamespace(key=value), {"key": rule})
        assert "\n" not in str(refusal.value)
        assert len(str(refusal.value)) < 250


def test_a_refusal_names_key_value_rule_and_the_nearest_choice():
    config = ml_collections.ConfigDict({"optimizer": {"schedule": "cosin", "b1": 2.0}})
    with pytest.raises(UserError) as refusal:
        check_values(config, {"optimizer.schedule": choice("cosine", "constant")})
    told = "optimizer.schedule is 'cosin' (did you mean 'cosine'?); it must be one of cosine, const"
    assert str(refusal.value).startswith(told)
    with pytest.raises(UserError, match=r"b1 is 2\.0; it must be a finite number >= 0 and < 1"):
        check_values(config, {"optimizer.b1": number(0, 1, below_high=True)})
    with pytest.raises(UserError, match="it must be an integer from 1 to 8"):
        check_values(config.optimizer, {"b1": integer(1, 8)}, "optimizer.")


def test_an_unknown_key_of_any_type_is_refused():
    with pytest.raises(UserError, match=r"the model has no key 'wiindow' \(did you mean 'window'"):
        check_keys(["wiindow"], ["window", "stride"], "the model")
    with pytest.raises(UserError, match=r"the config has no key 'decoder.y'$"):
        check_keys(["decoder.y"], ["decoder.depth", "decoder.width"], "the config")
    with pytest.raises(UserError, match=r"no key 'decodr.depth' \(did you mean 'decoder.depth'"):
        check_keys(["decodr.depth"], ["decoder.depth"], "the config")
    for key in (3, None, ("a",), b"window"):
        with pytest.raises(UserError, match="the model has no key"):
            check_keys([key], ["window"], "the model")
