"""What the training config may hold, and what is told of what it may not."""

import dataclasses
import math
import re

import ml_collections
import pytest

from tests.training.small_run import small_config
from vitdeblur_jax.data.synthesis import SynthesisSettings
from vitdeblur_jax.errors import UserError
from vitdeblur_jax.training import configuration
from vitdeblur_jax.training.configuration import FREE_KEYS, check_config, default_config

GOOD = [
    {},
    {"progressive": ((5, 50, 2), (10, 54, 6))},
    {"accumulation": 2},
    {"profile": (3, 3)},
    {"loss__border": 22},
    {"model__views": 2, "data__quarter_turns": False},
    {"validation__every": 1, "validation__stride": 36},
    {"optimizer__schedule": "multistep", "optimizer__milestones": (5, 15)},
]

BAD = [
    ({"steps": 0}, "steps is 0; it must be 1 or more"),
    ({"batch_size": 0}, "batch_size is 0; it must be 1 or more"),
    ({"seed": -1}, "seed is -1; it must be 0 or more"),
    ({"data__workers": -1}, "data.workers is -1; it must be 0 or more"),
    ({"validation__every": -5}, "validation.every is -5; it must be 0 or more"),
    ({"validation__stride": 37}, "stride is 37; the feature map of a window is 36 pixels"),
    ({"keep_checkpoints": 0}, "keep_checkpoints is 0; it must be 1 or more"),
    ({"averaging": 1.0}, "averaging is 1.0; it is at least 0 and less than 1"),
    ({"data__kind": "pears"}, "data.kind is 'pears' (did you mean 'pairs'?); it is one of pairs,"),
    ({"data__kind": "tfds"}, "data.kind is 'tfds'; it is one of pairs, prepared, synthetic"),
    ({"loss__sharpness": -1.0}, "loss.sharpness is -1.0; it must be 0 or more"),
    ({"loss__border": 23}, "loss.border leaves out 23 pixels a side: nothing is left of a crop"),
    ({"crop": 47}, "crop 47 with patch_size 8 and patch_stride 4 gives a map of 40 pixels"),
    ({"crop": 7}, "crop is 7 pixels, smaller than patch_size 8"),
    ({"accumulation": 3}, "a batch of 4 cannot be cut into 3 parts"),
    ({"progressive": ((5, 51, 4),)}, "crop 51 with patch_size 8"),
    ({"progressive": ((5, 50, 3),), "accumulation": 2}, "a batch of 3 cannot be cut into 2 parts"),
    ({"progressive": ((0, 50, 4),)}, "progressive begins at the steps [0]; they must rise from 1"),
    ({"progressive": ((20, 50, 4),)}, "they must rise from 1 to less than steps, which is 20"),
    ({"progressive": ((9, 50, 4), (5, 54, 4))}, "progressive begins at the steps [9, 5]"),
    ({"progressive": (5, 50, 4)}, "progressive holds 5; each part is three numbers"),
    ({"progressive": ((5, 50),)}, "progressive holds (5, 50); each part is three numbers"),
    ({"profile": (3, 20)}, "profile is (3, 20); it is (first, last), two steps from 0 to 19"),
    ({"profile": (5, 3)}, "profile is (5, 3); it is (first, last)"),
    ({"profile": (5,)}, "profile is (5,); it is (first, last)"),
    ({"profile": ("a", "b")}, "profile is ('a', 'b'); it is (first, last)"),
    ({"loss__charbonnier": 0.0}, "loss.charbonnier is 0: nothing would train the decoder"),
    ({"loss__sharpness": math.nan}, "loss.sharpness is nan; it must be 0 or more"),
    ({"accumulation": 4}, "a batch of 4 in 4 part(s) leaves one photograph for batch norm"),
    (
        {"optimizer__learning_rate_factors__tokenizer": 0.0},
        "optimizer.learning_rate_factors.tokenizer is 0, so it would stay random",
    ),
    (
        {"initial__checkpoint": "a", "initial__identity": True},
        "initial.checkpoint gives all values",
    ),
    (
        {"initial__encoder": "a", "initial__transparent": True},
        "initial.transparent would replace what initial.encoder gives",
    ),
    (
        {"optimizer__schedule": "multistep", "optimizer__milestones": ("a",)},
        "optimizer.milestones must be steps, whole numbers",
    ),
    ({"optimizer__name": "adam"}, "optimizer.name 'adam' is unknown (did you mean 'adamw'?)"),
    ({"optimizer__schedule": "cosin"}, "optimizer.schedule 'cosin' is unknown (did you mean"),
    ({"optimizer__warmup_steps": 21}, "optimizer.warmup_steps must be 0 to 20"),
    ({"model__views": 3}, "views is 3; it must be an integer from 1 to 2"),
    ({"model__views": 2}, "data.quarter_turns would lay the left and the right view one above"),
    ({"model__dtype": "float16"}, "dtype is 'float16' (did you mean 'bfloat16'?); it must be"),
]


@pytest.mark.parametrize("changes", GOOD)
def test_what_can_be_passes(changes):
    check_config(small_config(**changes))


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_what_cannot_be_is_told(changes, message):
    with pytest.raises(UserError, match=re.escape(message)) as told:
        check_config(small_config(**changes))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("path", "key", "message"),
    [
        ("", "optimiser", "the config has no key 'optimiser' (did you mean 'optimizer'?)"),
        ("loss", "sharpnes", "the config has no key loss.'sharpnes' (did you mean 'sharpness'?)"),
        ("model", "wiindow", "the config has no key model.'wiindow' (did you mean 'window'?)"),
        ("optimizer", "xyz", "the config has no key optimizer.'xyz'"),
        ("data.synthesis", "seed", "the config has no key data.synthesis.'seed'"),
    ],
)
def test_an_unknown_key_is_told_with_the_nearest_one(path, key, message):
    config = small_config()
    part = config
    for name in path.split(".") if path else ():
        part = part[name]
    with config.unlocked():
        part[key] = 1
    with pytest.raises(UserError, match=re.escape(message)):
        check_config(config)


def test_a_key_that_is_missing_is_told():
    config = small_config()
    with config.unlocked():
        del config.validation["pictures"]
    with pytest.raises(UserError, match=r"the config lacks the key validation\.'pictures'"):
        check_config(config)


def _paths(config, prefix=""):
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from _paths(value, f"{prefix}{key}.")
        yield f"{prefix}{key}"


def test_the_defaults_are_the_published_method():
    config = default_config()
    check_config(config)
    assert config.data.synthesis.to_dict() == dataclasses.asdict(SynthesisSettings())
    weights = {key: weight for key, weight in config.loss.items() if weight}
    assert weights == {"charbonnier": 1.0, "contextual_cosine": 0.2, "sharpness": 0.06}
    assert config.optimizer.weight_decay == 1e-2
    assert config.optimizer.decay_norms_and_biases


def test_free_keys_are_keys():
    assert set(FREE_KEYS) <= set(_paths(default_config()))


def test_every_key_is_explained():
    said = configuration.__doc__
    for key in default_config():
        assert re.search(rf"^\| .*\b{key}\b.* \|$", said, re.MULTILINE), key
    for part in ("initial", "data", "validation"):
        for key in default_config()[part]:
            assert re.search(rf"^\| {part}\.(\w+, )*.*\b{key}\b", said, re.MULTILINE), (part, key)
