"""What the training config may hold, and what is told of what it may not."""

import dataclasses
import functools
import math
import re
from typing import ClassVar

import flax.linen as nn
import jaxtyping
import ml_collections
import pytest

from tests.training.small_run import small_config
from vitdeblur_jax.data.defocus.settings import SynthesisSettings
from vitdeblur_jax.models.networks import GROUPS, create_network, named_config
from vitdeblur_jax.training import defaults, train
from vitdeblur_jax.training.configuration import check_config, defaults_of, free_keys, rules_for
from vitdeblur_jax.training.defaults import default_config
from vitdeblur_jax.training.losses import loss_weights
from vitdeblur_jax.training.optimizer import make_schedule
from vitdeblur_jax.utils.errors import UserError

SETS = {
    "a": {"root": "A", "layout": "dpdd"},
    "b": {"kind": "synthetic", "hold_out": 3, "synthesis": {"largest_radius": 20.0}},
    "c": {"layout": "realdof", "validation_split": "test"},
}

GOOD = [
    {},
    {"progressive": ((5, 50, 2), (10, 54, 6))},
    {"grad_accum_steps": 2},
    {"profile": (3, 3)},
    {"loss__border": 22},
    {"model__views": 2, "data__quarter_turns": False},
    {
        "model__views": 2,
        "data__quarter_turns": False,
        "data__kind": "synthetic",
        "data__synthesis__dual_pixel": True,
    },
    {"validation__every": 1, "validation__stride": 36},
    {"optimizer__schedule": "multistep", "optimizer__milestones": (5, 15)},
    {"optimizer__schedule": "wsd", "time_limit_s": 60.0},
    {"optimizer__lr_mults": (("tokenizer/.*", 0.1), [".*/bias", 1])},
    {"optimizer__lr_mults": (("tokenizer/.*", 0.0),), "initial__checkpoint": "a"},
    {"data__sets": SETS, "data__mixture": (("a", 2), ["b", 0.5]), "validation__sets": ("b", "c")},
    {"data__sets": SETS, "validation__sets": ["c"]},
]

BAD = [
    ({"num_steps": 0}, "num_steps is 0; it must be an integer >= 1"),
    ({"batch_size": 0}, "batch_size is 0; it must be an integer from 1 to 65536"),
    ({"seed": -1}, "seed is -1; it must be an integer >= 0"),
    ({"data__workers": -1}, "data.workers is -1; it must be an integer from 0 to 1024"),
    ({"validation__every": -5}, "validation.every is -5; it must be an integer >= 0"),
    ({"validation__stride": 37}, "stride is 37; the feature map of a window is 36 pixels"),
    ({"keep_checkpoints": 0}, "keep_checkpoints is 0; it must be an integer >= 1"),
    ({"ema_decay": 1.0}, "ema_decay is 1.0; it must be a finite number >= 0 and <= 0.999999"),
    (
        {"data__kind": "pears"},
        "data.kind is 'pears' (did you mean 'pairs'?); it must be one of",
    ),
    ({"data__kind": "tfds"}, "data.kind is 'tfds'; it must be one of pairs, prepared, synthetic"),
    ({"loss__sharpness": -1.0}, "loss.sharpness is -1.0; it must be a finite number >= 0"),
    ({"loss__border": 23}, "loss.border excludes 23 pixels on each side, which is all of a crop"),
    ({"loss__ssim": 1.0, "loss__border": 18}, "loss.ssim needs 11 x 11 pixels, but a crop of 46"),
    ({"loss__lpips": 1.0, "loss__border": 6}, "loss.lpips needs 35 x 35 pixels, but a crop of 46"),
    ({"loss__lpips_backbone": "vg"}, "loss.lpips_backbone is 'vg' (did you mean 'vgg'?); it must"),
    ({"crop": 47}, "crop 47 with patch_size 8 and patch_stride 4 gives a map of 40 pixels"),
    ({"crop": 7}, "crop is 7 pixels, smaller than patch_size 8"),
    ({"grad_accum_steps": 3}, "a batch of 4 cannot be split into 3 parts"),
    ({"progressive": ((5, 51, 4),)}, "crop 51 with patch_size 8"),
    (
        {"progressive": ((5, 50, 3),), "grad_accum_steps": 2},
        "a batch of 3 cannot be split into 2 parts",
    ),
    (
        {"progressive": ((0, 50, 4),)},
        "progressive has the first steps [0]; they must increase, from 1",
    ),
    (
        {"progressive": ((20, 50, 4),)},
        "they must increase, from 1 to less than num_steps, which is 20",
    ),
    ({"progressive": ((9, 50, 4), (5, 54, 4))}, "progressive has the first steps [9, 5]"),
    (
        {"progressive": (5, 50, 4)},
        "progressive is (5, 50, 4); it must be ((first_step, crop,",
    ),
    (
        {"progressive": ((5, 50),)},
        "progressive is ((5, 50),); it must be ((first_step, crop,",
    ),
    ({"profile": (3, 20)}, "profile is (3, 20); it must be (first, last), two steps from 0 to 19"),
    ({"profile": (5, 3)}, "profile is (5, 3); it must be (first, last)"),
    ({"profile": (5,)}, "profile is (5,); it must be (first, last)"),
    ({"profile": ("a", "b")}, "profile is ('a', 'b'); it must be (first, last)"),
    ({"loss__charbonnier": 0.0}, "decoder would not be trained; raise loss.charbonnier above 0"),
    ({"loss__sharpness": math.nan}, "loss.sharpness is nan; it must be a finite number >= 0"),
    (
        {"grad_accum_steps": 4},
        "batch norm needs at least two images per step",
    ),
    (
        {"initial__checkpoint": "a", "initial__identity_init": True},
        "initial.checkpoint sets all values",
    ),
    (
        {"initial__encoder": "a", "initial__dct_init": True},
        "initial.dct_init would overwrite the weights of initial.encoder",
    ),
    (
        {"optimizer__schedule": "multistep", "optimizer__milestones": ("a",)},
        "optimizer.milestones is ('a',); it must be a tuple, each an integer",
    ),
    ({"optimizer__name": "adam"}, "optimizer.name is 'adam' (did you mean 'adamw'?)"),
    ({"time_limit_s": 60.0}, "optimizer.schedule is 'cosine', which counts steps"),
    ({"optimizer__schedule": "cosin"}, "optimizer.schedule is 'cosin' (did you mean 'cosine'?)"),
    (
        {"optimizer__warmup_steps": 21},
        "optimizer.warmup_steps is 21; it must be at most num_steps, 20",
    ),
    (
        {"progressive": ((5, 50, 2**17),)},
        "progressive: batch_size is 131072; it must be an integer",
    ),
    (
        {"model__views": 2, "data__quarter_turns": False, "data__kind": "synthetic"},
        "the network takes 2 views, but data.synthesis.dual_pixel is False: set "
        "data.synthesis.dual_pixel to True, or the network's views to 1",
    ),
    (
        {"data__kind": "synthetic", "data__synthesis__dual_pixel": True},
        "the network takes 1 view, but data.synthesis.dual_pixel is True: set "
        "data.synthesis.dual_pixel to False, or the network's views to 2",
    ),
    (
        {"data__synthesis__disk_share": 0.9},
        "data.synthesis.disk_share + data.synthesis.polygon_share is 1.1; the sum must be",
    ),
    (
        {"data__synthesis__usual_radius": (8.0, 0.5)},
        "data.synthesis.usual_radius and data.synthesis.largest_radius: 8.0, 0.5, 12.0 must not",
    ),
    (
        {"data__sets": {"a": {"roots": ""}}},
        "data.sets.a has no key 'roots' (did you mean 'root'?)",
    ),
    (
        {"data__sets": {"a": {"synthesis": {"noize": 1.0}}}},
        "data.sets.a has no key 'synthesis.noize' (did you mean 'synthesis.noise'?)",
    ),
    ({"data__sets": {"a": {"hold_out": -1}}}, "data.sets.a.hold_out is -1; it must be an integer"),
    (
        {"data__sets": {"a": {"synthesis": {"large_share": 1.0}}}},
        "data.sets.a.synthesis.focused_share + data.sets.a.synthesis.large_share is 1.1",
    ),
    ({"data__sets": {"a b": {}}}, "data.sets is a b: {}; it must be groups of keys by name"),
    (
        {"data__sets": SETS, "data__mixture": (("aa", 1.0),)},
        "data.mixture names 'aa' (did you mean 'a'?), which is not in data.sets; there are a, b, c",
    ),
    (
        {"validation__sets": ("a",)},
        "validation.sets names 'a', which is not in data.sets; there are none",
    ),
    (
        {"data__sets": SETS, "data__mixture": (("a", 1.0), ("a", 2.0))},
        "data.mixture names a set twice: a, a",
    ),
    (
        {"data__sets": SETS, "data__mixture": (("a", 0.0),)},
        "data.mixture is (('a', 0.0),); it must be ((name, weight), ...)",
    ),
    (
        {"data__sets": SETS, "validation__sets": ("a",), "validation__root": "A"},
        "validation.root is for a single data set; give each set in data.sets its own root",
    ),
    (
        {"data__sets": SETS, "data__mixture": (("b", 1.0),)}
        | {"model__views": 2, "data__quarter_turns": False},
        "the network takes 2 views, but data.sets.b.synthesis.dual_pixel is False: set "
        "data.sets.b.synthesis.dual_pixel to True, or the network's views to 1",
    ),
    (
        {"data__synthesis__device": True},
        "data.synthesis.device is True, but data.kind is 'pairs'; set it to False, or the kind",
    ),
    (
        {"data__sets": SETS, "data__mixture": (("b", 1.0), ("c", 1.0))}
        | {"data__kind": "synthetic", "data__synthesis__device": True},
        "data.sets.b.synthesis.device is True, but data.mixture has 2 sets; the device makes",
    ),
    (
        {"validation__every": 5, "validation__root": "pairs", "data__hold_out": 3},
        "validation.root is not used, because data.hold_out is 3: the held-out images validate;",
    ),
    ({"model__views": 3}, "model.views is 3; it must be an integer from 1 to 2"),
    ({"model__views": 2}, "data.quarter_turns would put the left view above the right one"),
    (
        {"numerics__dtype": "float16"},
        "numerics.dtype is 'float16' (did you mean 'bfloat16'?); it must be",
    ),
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
        ("", "save_evry", "the config has no key 'save_evry' (did you mean 'save_every'?)"),
        ("", "learning_rate", "'learning_rate' (did you mean 'optimizer.learning_rate'?)"),
        (
            "loss",
            "sharpnes",
            "no key 'loss.sharpnes' (did you mean 'loss.sharpness'?)",
        ),
        (
            "tiling",
            "wiindow",
            "no key 'tiling.wiindow' (did you mean 'tiling.window'?)",
        ),
        ("optimizer", "lr_mult", "(did you mean 'optimizer.lr_mults'?)"),
        ("optimizer", "xyz", "the config has no key 'optimizer.xyz'"),
        ("data.synthesis", "seed", "the config has no key 'data.synthesis.seed'"),
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
        del config.validation["num_logged_images"]
    with pytest.raises(UserError, match=r"lacks the key 'validation\.num_logged_images'"):
        check_config(config)


def _paths(config, prefix=""):
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from _paths(value, f"{prefix}{key}.")
        yield f"{prefix}{key}"


def test_the_defaults_are_the_published_method():
    config = default_config("base")
    check_config(config)
    synthesis = config.data.synthesis.to_dict()
    assert synthesis == {"device": False, **dataclasses.asdict(SynthesisSettings())}
    weights = {name: w for name, w in loss_weights(config.loss).items() if w}
    assert weights == {"charbonnier": 1.0, "contextual_cosine": 0.2, "sharpness": 0.06}
    assert config.optimizer.weight_decay == 1e-2
    assert config.optimizer.decay_norms_and_biases


def test_free_keys_are_keys():
    config = default_config("base")
    assert set(free_keys(config)) <= set(_paths(config))


@pytest.mark.parametrize("schedule", ["cosine", "multistep", "constant", "wsd"])
def test_the_number_of_steps_is_free_unless_the_schedule_depends_on_it(schedule):
    config = small_config(optimizer__schedule=schedule, optimizer__milestones=(8,))
    rates = [make_schedule(config.optimizer, steps)(7) for steps in (8, 40)]
    assert ("num_steps" in free_keys(config)) == (rates[0] == rates[1])


@pytest.mark.parametrize("name", ["tiny", "nrknet"])
def test_every_key_of_a_config_has_a_default_for_runs_that_lack_it(name):
    config = default_config(name)
    found = defaults_of(config, create_network(config))
    assert set(_paths(found)) == set(_paths(config))
    assert found.time_limit_s == 0


def test_with_a_time_limit_the_number_of_steps_is_free_and_the_limit_is_not():
    config = small_config(optimizer__schedule="wsd", time_limit_s=60.0)
    assert "num_steps" in free_keys(config)
    assert "time_limit_s" not in free_keys(config)


RULES_FOR_VITDEBLUR = rules_for(create_network(named_config("base")))

# No key may have any of these, but for those in `VALID`.
WRONG = [
    *(math.nan, math.inf, -math.inf, 2**62, 10**30, -(10**30), -1, 0.5 + 1j, None, True),
    *("many", b"many", (), ("a",), (1,), (math.nan, math.nan), (0, 2**62), [None], {}, object()),
]
TEXTS = {
    *("initial.checkpoint", "initial.encoder", "data.root", "data.split"),
    *("loss.lpips_weights", "validation.root", "validation.split"),
}
VALID = {
    **{key: ["many"] for key in TEXTS},
    **{f"mesh.{axis}": [-1] for axis in ("data", "fsdp")},
    "data.sets": [{}],
    "data.mixture": [()],
    "validation.sets": [(), ("a",)],
    "progressive": [()],
    "trackers": [()],
    "loss_schedule": [()],
    "profile": [()],
    "afterwards": [(), ("a",)],
    "optimizer.milestones": [(), (1,)],
    "optimizer.gammas": [(), (1,)],
    "optimizer.lr_mults": [()],
}


def test_every_key_has_a_rule():
    config = default_config("base")
    paths = list(_paths(config))
    groups = {path.rpartition(".")[0] for path in paths}
    described = {path for path in paths if path.split(".")[0] in GROUPS}
    assert set(paths) - groups - described == set(RULES_FOR_VITDEBLUR)


@pytest.mark.parametrize("key", RULES_FOR_VITDEBLUR)
def test_a_wrong_value_is_told_by_its_key_before_anything_is_written(key, tmp_path):
    *groups, name = key.split(".")
    config = small_config()
    group = functools.reduce(getattr, groups, config)
    is_flag = isinstance(group[name], bool)
    for value in WRONG:
        with config.unlocked(), group.ignore_type():
            group[name] = value
        with pytest.raises(UserError) as told:
            train(config, tmp_path / "run")
        if value not in VALID.get(key, [True] if is_flag else []):
            assert str(told.value).startswith(f"{key} is "), (value, told.value)
        assert "\n" not in str(told.value)
        assert len(str(told.value)) < 400
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("group", ["model", "loss", "optimizer", "data.synthesis", "validation"])
@pytest.mark.parametrize("value", [None, 3, "many", ()])
def test_a_value_in_place_of_a_group_is_told(group, value):
    config = small_config()
    *groups, name = group.split(".")
    with config.unlocked(), config.ignore_type():
        functools.reduce(getattr, groups, config)[name] = value
    with pytest.raises(UserError, match=rf"^{group} is .*; it must be a group of keys"):
        check_config(config)


def test_a_plain_dict_is_told(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(UserError, match=r"it must be an ml_collections\.ConfigDict"):
        check_config(default_config().to_dict())


def test_every_key_is_explained():
    said = defaults.__doc__
    for key in default_config("base"):
        assert re.search(rf"^\| .*\b{key}\b.* \|$", said, re.MULTILINE), key
    for part in ("initial", "data", "validation"):
        for key in default_config()[part]:
            assert re.search(rf"^\| {part}\.(\w+, )*.*\b{key}\b", said, re.MULTILINE), (part, key)


def test_the_network_comes_from_the_config_or_from_the_caller():
    class Own(nn.Module):
        @nn.compact
        def __call__(self, image):
            return nn.Conv(3, (3, 3))(image)

    assert check_config(default_config(), Own()) == Own()
    with pytest.raises(UserError, match="describes no network; start from default_config"):
        check_config(default_config())
    with pytest.raises(UserError, match="describes a network, but train was given another one"):
        check_config(default_config("base"), Own())


def test_own_loss_terms_and_initial_options_of_a_network_are_keys():
    class Own(nn.Module):
        LOSS_TERMS: ClassVar = {"edges": 0.5}
        INITIAL_OPTIONS: ClassVar = {"warm": False}

        @nn.compact
        def __call__(self, image):
            return nn.Dense(3)(image)

    config = default_config(Own())
    assert (config.loss.edges, config.initial.warm) == (0.5, False)
    check_config(config, Own())
    config.loss.edges = -1.0
    with pytest.raises(UserError, match=r"loss.edges is -1.0"):
        check_config(config, Own())
