import functools
import re

import pytest
from flax import traverse_util

from tests.small_model import small_configuration
from vitdeblur_jax.inference.windows import window_starts
from vitdeblur_jax.models.network import abstract_variables
from vitdeblur_jax.models.networks import (
    NETWORKS,
    complete_config,
    config_of,
    configuration_names,
    create_network,
    named_config,
)
from vitdeblur_jax.models.tilings import Windows, stride_note
from vitdeblur_jax.models.vitdeblur.configuration import parameter_count
from vitdeblur_jax.utils.errors import UserError


@pytest.mark.parametrize(
    ("changes", "numbers"),
    [
        ({"primary_encoder__num_heads": 5}, ["32", "5"]),
        ({"decoder__num_heads": 7}, ["48", "7"]),
        ({"contextual_encoder__num_heads": 3}, ["32", "3"]),
        ({"primary_encoder__width": 34, "primary_encoder__num_heads": 2}, ["34"]),
        ({"primary_encoder__depth": 2, "decoder__depth": 3}, ["3", "2"]),
        ({"image_head__input_kernel": 6}, ["6", "5"]),
        ({"views": 3}, ["3"]),
        ({"window": 43}, ["36", "37"]),
        ({"tokenizer__patch_stride": 5}, ["35", "36"]),
        ({"window": 6}, ["6", "8"]),
        ({"image_head__output_kernel": 71}, ["36", "71"]),
        ({"image_head__output_kernel": 65}, ["36", "65"]),
        ({"primary_encoder__depth": 0}, ["model.primary_encoder.depth", "0"]),
        ({"contextual_encoder__projector_widths": (3,)}, ["(3,)"]),
        ({"stride": 37}, ["37", "36"]),
        ({"decoder__patch_overlap": 5}, ["patch_overlap is 5", "patch_stride, 4"]),
        ({"dtype": "float16"}, ["float16", "bfloat16"]),
        ({"precision": "low"}, ["low", "highest"]),
    ],
)
def test_what_does_not_fit_together_is_refused_with_the_numbers(changes, numbers):
    with pytest.raises(UserError) as refusal:
        small_configuration(**changes)
    assert all(number in str(refusal.value) for number in numbers)


TYPES = [None, "8", 1.5, True, (1, 2), 2**70, 10**5000, -1, float("nan")]
KEYS = [
    key
    for key in traverse_util.flatten_dict(named_config("base").to_dict(), sep=".")
    if key != "network"
]


def _with(changes):
    """Returns the base config with other values, by dotted key."""
    values = {"network": "vitdeblur"}
    for key, value in changes.items():
        *groups, name = key.split(".")
        group = functools.reduce(lambda inner, part: inner.setdefault(part, {}), groups, values)
        group[name] = value
    return values


@pytest.mark.parametrize("key", KEYS)
def test_each_key_is_checked_for_type_and_range(key):
    valid = {
        "numerics.remat": True,
        "model.contextual_encoder.projector_widths": (1, 2),
    }.get(key, 0.5)
    for value in TYPES:
        if value != valid:
            with pytest.raises(UserError, match=f"^{key} is .*; it must be ") as refusal:
                complete_config(_with({key: value}))
            assert "\n" not in str(refusal.value)
            assert len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model.contextual_encoder.depth": 3000}, "from 1 to 64"),
        ({"model.primary_encoder.depth": 10**7}, "from 1 to 64"),
        ({"model.tokenizer.pretraining_grid": 20000}, "from 1 to 256"),
        (
            {
                "model.tokenizer.pretraining_grid": 256,
                "model.primary_encoder.num_heads": 16,
                "model.primary_encoder.width": 1024,
            },
            "table of pretraining_grid",
        ),
        ({"model.primary_encoder.width": 2**70}, "from 1 to 32768"),
        (
            {"model.primary_encoder.width": 24576, "model.decoder.width": 32768},
            "the model.s parameters: ",
        ),
        ({"tiling.window": 2580}, "tokens of a window"),
        ({"model.contextual_encoder.projector_widths": [-5, 3]}, "a tuple of 2"),
        ({"model.contextual_encoder.projector_widths": [0, 0]}, "a tuple of 2"),
        ({"model.contextual_encoder.projector_widths": [1.5, 2]}, "a tuple of 2"),
        ({"model.contextual_encoder.projector_widths": "ab"}, "a tuple of 2"),
        ({"model.contextual_encoder.projector_widths": {}}, "not be a group of keys"),
    ],
)
def test_a_model_too_large_to_trace_is_refused_by_arithmetic(changes, told, monkeypatch):
    monkeypatch.setattr("jax.eval_shape", None)
    with pytest.raises(UserError, match=told):
        complete_config(_with(changes))


@pytest.mark.parametrize(
    "config",
    [
        named_config("base"),
        small_configuration(),
        small_configuration(views=2, primary_encoder__depth=3, decoder__depth=3),
        small_configuration(decoder__patch_overlap=3),
    ],
)
def test_the_number_of_values_is_that_of_the_model(config):
    variables = abstract_variables(create_network(config))
    assert parameter_count(config.model) == sum(leaf.size for leaf in _leaves(variables))


def test_a_config_from_before_patch_overlap_has_none():
    saved = small_configuration(decoder__patch_overlap=3)
    assert complete_config(saved.to_dict()) == config_of(create_network(saved)) == saved
    del saved.model.decoder.patch_overlap
    assert complete_config(saved.to_dict()) == small_configuration()


def test_a_misspelt_key_names_the_nearest():
    with pytest.raises(UserError, match=r"'model.decoder.widht' .did you mean 'model.decoder.w"):
        complete_config(_with({"model.decoder.widht": 3}))
    with pytest.raises(UserError, match=r"did you mean 'light'"):
        named_config("ligth")
    with pytest.raises(UserError, match=r"'vitdebur' .did you mean 'vitdeblur'"):
        complete_config({"network": "vitdebur"})


def test_the_base_model_has_the_published_size():
    counts = {}
    for name, collection in abstract_variables(create_network(named_config("base"))).items():
        counts[name] = sum(leaf.size for leaf in _leaves(collection))
    unused_block, norms, mask_token = 12 * 768**2 + 13 * 768, 4 * 768, 512
    total = counts["params"] + counts["position_embedding"] + unused_block + norms + mask_token
    assert round(total / 1e6, 1) == 121.6


# The tests of published names and shapes trace the configurations named after their network.
@pytest.mark.parametrize("name", [name for name in configuration_names() if name not in NETWORKS])
def test_every_named_configuration_builds(name):
    abstract_variables(create_network(named_config(name)))


# Of all offsets 0 to period - 1, those at which windows of a large image begin.
@pytest.mark.parametrize(("name", "offsets"), [("base", 5), ("light", 5), ("tiny", 8)])
def test_neighbouring_windows_of_named_configurations_have_different_token_grids(name, offsets):
    tiling = create_network(named_config(name)).tiling
    starts = window_starts(100 * tiling.size, tiling.size, tiling.stride)[:-1]
    assert len({start % tiling.period for start in starts}) == offsets
    assert stride_note(tiling, tiling.stride) is None


@pytest.mark.parametrize(
    ("period", "stride", "better"),
    [(8, 48, 45), (8, 96, 93), (8, 8, 5), (10, 80, 77), (4, 20, 19), (2, 30, 29), (3, 9, 8)],
)
def test_a_stride_that_repeats_the_token_grid_is_noted_with_a_better_one(period, stride, better):
    tiling = Windows(100, stride, period=period)
    told = f"{stride} is a multiple of {period}, .*stride {better} avoids"
    assert re.search(told, stride_note(tiling, stride))
    for silent in (better, stride + 1):
        assert stride_note(tiling, silent) is None


def test_tokens_one_pixel_apart_have_one_grid_at_any_stride():
    assert stride_note(Windows(100, 30), 30) is None


def _leaves(tree):
    return (
        [leaf for value in tree.values() for leaf in _leaves(value)]
        if isinstance(tree, dict)
        else [tree]
    )
