import re

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from vitdeblur_jax.training.lr_mults import RULE, frozen_by_lr_mults, scale_by_lr_mults
from vitdeblur_jax.utils.errors import UserError

PATHS = (
    *("stem/kernel", "stem/bias", "body/block_0/scale", "body/block_1/scale"),
    *("body/head/kernel", "head/kernel"),
)
PARAMS = unflatten_dict({path: np.float32(2) for path in PATHS}, sep="/")


@pytest.mark.parametrize(
    ("lr_mults", "multipliers"),
    [
        ((), (1, 1, 1, 1, 1, 1)),
        (((".*", 0.5),), (0.5, 0.5, 0.5, 0.5, 0.5, 0.5)),
        # The whole path must match.
        ((("head/.*", 0.5),), (1, 1, 1, 1, 1, 0.5)),
        (((".*head/.*", 0.5),), (1, 1, 1, 1, 0.5, 0.5)),
        # The first match wins.
        ((("body/block_0/.*", 0.0), ("body/.*", 0.5)), (1, 1, 0, 0.5, 0.5, 1)),
        ([["(stem|body)/.*", 0.25], [".*", 3]], (0.25, 0.25, 0.25, 0.25, 0.25, 3)),
        ((("(?!head/).*", 0),), (0, 0, 0, 0, 0, 1)),
    ],
)
def test_updates_are_multiplied_by_the_first_matching_pattern(lr_mults, multipliers):
    updates, _ = jax.jit(scale_by_lr_mults(lr_mults).update)(PARAMS, scale_by_lr_mults(()).init(0))
    updates = flatten_dict(updates, sep="/")
    assert {path: float(updates[path]) / 2 for path in PATHS} == dict(
        zip(PATHS, multipliers, strict=True)
    )
    frozen = {"/".join(path) for path in frozen_by_lr_mults(PARAMS, lr_mults)}
    assert frozen == {path for path, m in zip(PATHS, multipliers, strict=True) if m == 0}


@pytest.mark.parametrize(
    ("lr_mults", "message"),
    [
        ((("boddy/.*", 0.1),), "'boddy/.*' matches no parameter (did you mean 'body/.*'?)"),
        ((("body", 0.1),), "'body' matches no parameter (did you mean 'body/.*'?)"),
        ((("block_1/.*", 0.1),), "(did you mean 'body/block_1/.*'?)"),
        ((("stem/bais", 0.1),), "(did you mean 'stem/bias'?)"),
        ((("zzz", 0.1),), "'zzz' matches no parameter; the parameters are in stem, body, head"),
        (
            (("body/.*", 0.1), ("body/head/.*", 0.2)),
            "'body/head/.*' has no effect: earlier patterns match all its parameters; move it up",
        ),
        (((".*", 0.0),), "optimizer.lr_mults is 0 for all parameters"),
        ((("stem/.*", 0), ("(head|body)/.*", 0.0)), "optimizer.lr_mults is 0 for all parameters"),
    ],
)
def test_a_pattern_without_effect_is_refused_in_one_line(lr_mults, message):
    with pytest.raises(UserError, match=re.escape(message)) as refusal:
        frozen_by_lr_mults(PARAMS, lr_mults)
    assert str(refusal.value).startswith("optimizer.lr_mults")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("value", [(), (("a", 1),), [["a.*", 0.0], ["(b|c)/d", 1e6]]])
def test_pairs_of_pattern_and_multiplier_are_accepted(value):
    assert RULE.accepts(value)


@pytest.mark.parametrize(
    "value",
    [
        *("head/.*", ("head/.*", 0.1), (("head/.*",),), (("head/.*", "0.1"),), ((1, 0.1),)),
        *((("head/.*", -0.1),), (("head/.*", float("nan")),), (("head/.*", True),)),
        *((("(head", 0.1),), (("a{99999999999}", 0.1),), {"head/.*": 0.1}, None),
    ],
)
def test_other_values_are_refused(value):
    assert not RULE.accepts(value)
