import re
from types import SimpleNamespace

import pytest

from tests.small_model import small_configuration
from vitdeblur_jax.inference.tiling import window_starts
from vitdeblur_jax.models import ViTDeblur, abstract_variables
from vitdeblur_jax.models.vitdeblur.configuration import (
    CONFIGURATIONS,
    base,
    complete_configuration,
    named_configuration,
    parameter_count,
    stride_note,
)
from vitdeblur_jax.utils.errors import UserError


@pytest.mark.parametrize(
    ("changes", "numbers"),
    [
        ({"primary_heads": 5}, ["32", "5"]),
        ({"decoder_heads": 7}, ["48", "7"]),
        ({"contextual_heads": 3}, ["32", "3"]),
        ({"primary_width": 34, "primary_heads": 2}, ["34"]),
        ({"decoder_depth": 3}, ["3", "2"]),
        ({"input_kernel": 6}, ["6", "5"]),
        ({"views": 3}, ["3"]),
        ({"window": 43}, ["36", "37"]),
        ({"training_window": 45}, ["40", "39"]),
        ({"patch_stride": 5}, ["35", "36"]),
        ({"window": 6}, ["6", "8"]),
        ({"output_kernel": 71}, ["36", "71"]),
        ({"output_kernel": 65}, ["36", "65"]),
        ({"primary_depth": 0}, ["primary_depth", "0"]),
        ({"projector_widths": (3,)}, ["(3,)"]),
        ({"stride": 37}, ["37", "36"]),
        ({"dtype": "float16"}, ["float16", "bfloat16"]),
        ({"precision": "low"}, ["low", "highest"]),
    ],
)
def test_what_does_not_fit_together_is_refused_with_the_numbers(changes, numbers):
    with pytest.raises(UserError) as refusal:
        small_configuration(**changes)
    assert all(number in str(refusal.value) for number in numbers)


TYPES = [None, "8", 1.5, True, (1, 2), 2**70, 10**5000, -1, float("nan")]


@pytest.mark.parametrize("key", base())
def test_each_key_is_checked_for_type_and_range(key):
    valid = {"remat": True, "projector_widths": (1, 2)}.get(key, 0.5)
    for value in TYPES:
        if value != valid:
            with pytest.raises(UserError, match=f"^{key} is .*; it must be ") as refusal:
                complete_configuration({key: value})
            assert "\n" not in str(refusal.value)
            assert len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"contextual_depth": 3000}, "from 1 to 64"),
        ({"primary_depth": 10**7}, "from 1 to 64"),
        ({"pretraining_grid": 20000}, "from 1 to 256"),
        (
            {"pretraining_grid": 256, "primary_heads": 16, "primary_width": 1024},
            "table of pretraining_grid",
        ),
        ({"primary_width": 2**70}, "from 1 to 32768"),
        ({"primary_width": 24576, "decoder_width": 32768}, "parameters would number"),
        ({"window": 2580}, "tokens of a window"),
        ({"projector_widths": [-5, 3]}, "a tuple of 2"),
        ({"projector_widths": [0, 0]}, "a tuple of 2"),
        ({"projector_widths": [1.5, 2]}, "a tuple of 2"),
        ({"projector_widths": "ab"}, "a tuple of 2"),
        ({"projector_widths": {}}, "a tuple of 2"),
    ],
)
def test_a_model_too_large_to_trace_is_refused_by_arithmetic(changes, told, monkeypatch):
    monkeypatch.setattr("jax.eval_shape", None)
    with pytest.raises(UserError, match=told):
        complete_configuration(changes)


@pytest.mark.parametrize(
    "config",
    [base(), small_configuration(), small_configuration(views=2, primary_depth=3, decoder_depth=3)],
)
def test_the_number_of_values_is_that_of_the_model(config):
    variables = abstract_variables(ViTDeblur(**config))
    assert parameter_count(config) == sum(leaf.size for leaf in _leaves(variables))


def test_the_module_itself_refuses_too():
    config = base()
    config.window = 321
    with pytest.raises(UserError, match=r"310.*311"):
        ViTDeblur(**config)


def test_a_misspelt_key_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'decoder_width'"):
        complete_configuration({"decoder_widht": 3})
    with pytest.raises(UserError, match="did you mean 'light'"):
        named_configuration("ligth")


def test_the_base_model_has_the_published_size():
    counts = {}
    for name, collection in abstract_variables(ViTDeblur(**base())).items():
        counts[name] = sum(leaf.size for leaf in _leaves(collection))
    unused_block, norms, mask_token = 12 * 768**2 + 13 * 768, 4 * 768, 512
    total = counts["params"] + counts["position_embedding"] + unused_block + norms + mask_token
    assert round(total / 1e6, 1) == 121.6


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_named_configuration_builds(name):
    abstract_variables(ViTDeblur(**named_configuration(name)))


# Of all offsets 0 to patch_stride - 1, those at which windows of a large image begin.
@pytest.mark.parametrize(("name", "offsets"), [("base", 5), ("light", 5), ("tiny", 8)])
def test_neighbouring_windows_of_named_configurations_have_different_token_grids(name, offsets):
    config = named_configuration(name)
    starts = window_starts(100 * config.window, config.window, config.stride)[:-1]
    assert len({start % config.patch_stride for start in starts}) == offsets
    assert stride_note(config, config.stride) is None


@pytest.mark.parametrize(
    ("patch_stride", "stride", "better"),
    [(8, 48, 45), (8, 96, 93), (8, 8, 5), (10, 80, 77), (4, 20, 19), (2, 30, 29), (3, 9, 8)],
)
def test_a_stride_that_repeats_the_token_grid_is_noted_with_a_better_one(
    patch_stride, stride, better
):
    config = SimpleNamespace(patch_stride=patch_stride)
    told = f"{stride} is a multiple of patch_stride {patch_stride}.*stride {better} avoids"
    assert re.search(told, stride_note(config, stride))
    for silent in (better, stride + 1):
        assert stride_note(config, silent) is None


def test_tokens_one_pixel_apart_have_one_grid_at_any_stride():
    assert stride_note(SimpleNamespace(patch_stride=1), 30) is None


def _leaves(tree):
    return (
        [leaf for value in tree.values() for leaf in _leaves(value)]
        if isinstance(tree, dict)
        else [tree]
    )
