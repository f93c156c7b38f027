"""The configs of all networks: saved as JSON, read back, and checked before anything is traced."""

import json

import pytest

from vitdeblur_jax import create
from vitdeblur_jax.checkpoints.pretrained import (
    check_same_network,
    config_from_json,
    config_to_json,
)
from vitdeblur_jax.models.networks import config_of, configuration_names
from vitdeblur_jax.utils.errors import UserError


@pytest.mark.parametrize("name", configuration_names())
def test_a_saved_config_is_that_of_the_same_network(name):
    network = create(name)
    saved = config_from_json(config_to_json(network), "f")
    assert saved == config_of(network)
    check_same_network(network, saved, "f")


@pytest.mark.parametrize(
    "groups",
    [
        '"model": {"a.b": 1}',
        '"model": {"rates.x": 1}',
        '"model": {"rates": {"a.b": 1}}',
        '"model": {"rates": [{"a.b": 1}]}',
        '"model": {"rate": [1]}',
        '"tiling": {"a.b": 1}',
        '"numerics": {"dtype.x": 1}',
        '"numerics": {"dtype": {"a.b": 1}}',
    ],
)
def test_unknown_names_and_groups_are_refused(groups):
    with pytest.raises(UserError, match=r"^f: its configuration cannot be used") as refusal:
        config_from_json('{"network": "kpac", ' + groups + "}", "f")
    assert "\n" not in str(refusal.value)


def test_the_nearest_name_is_told():
    with pytest.raises(UserError, match=r"no key 'model\.rats' \(did you mean 'model\.rates'\?\)"):
        create("kpac", rats=(1,))
    with pytest.raises(UserError, match=r"no key 'model\.decoder\.dept' \(did you mean .*depth'"):
        create("base", decoder={"dept": 1})
    with pytest.raises(UserError, match=r"no key 'model\.a\.b'"):
        create("base", **{"a.b": 1})
    with pytest.raises(UserError, match=r"no key 'model\.decoder\.depth'"):
        create("base", **{"decoder.depth": 3})


PAIRS = [[4, 4]] * 4
INVALID = [
    ("dpdnet", {"widths": [0, 1, 1, 1, 1]}),
    ("dpdnet", {"widths": [1, 1, 1, 1]}),
    ("dpdnet", {"dropout": 7.0}),
    ("dpdnet", {"dropout": 1.0}),
    ("mdp", {"widths": [2**16] * 5}),
    ("aifnet", {"levels": 0}),
    ("aifnet", {"decoder_widths": [1, 2, 2, 2]}),
    ("ifanet", {"iterations": 0}),
    ("ifanet", {"iterations": 65}),
    ("drbnet", {"kernel_size": 0}),
    ("drbnet", {"kernel_size": 4}),
    ("drbnet", {"kernel_size": 4001}),
    ("drbnet", {"kernel_size": True}),
    ("drbnet", {"image_widths": [*PAIRS[:3], [0, 4]]}),
    ("drbnet", {"image_widths": [*PAIRS[:3], 4]}),
    ("restormer", {"width": 0}),
    ("restormer", {"expansion": -1.0}),
    ("restormer", {"expansion": 1e300}),
    ("restormer", {"expansion": 0.001}),
    ("restormer", {"depths": [], "heads": []}),
    ("restormer", {"depths": [2**16] * 4}),
    ("restormer", {"depths": [1] * 70, "heads": [1] * 70}),
    ("nrknet", {"num_steps": [400, 1, 1]}),
    ("nrknet", {"num_steps": [0, 0, 0]}),
    ("nrknet", {"num_blurs": 2**16}),
    ("gkmnet", {"num_blurs": 2**16}),
    ("gkmnet", {"num_blurs": 0}),
    ("kpac", {"levels": 2**16}),
    ("kpac", {"levels": 1}),
    ("kpac", {"rates": []}),
    ("kpac", {"rates": [1] * 17}),
    ("kpac", {"width": 2}),
]


@pytest.mark.parametrize(("network", "model"), INVALID)
def test_invalid_attributes_are_refused_before_tracing(network, model, monkeypatch):
    monkeypatch.setattr("jax.eval_shape", None)
    with pytest.raises(UserError, match=r"it must be ") as refusal:
        config_from_json(json.dumps({"network": network, "model": model}), "f")
    assert "\n" not in str(refusal.value)
    with pytest.raises(UserError, match=r"^model\..* it must be "):
        create(network, **model)


@pytest.mark.parametrize(
    ("network", "changes", "halo"),
    [
        ("drbnet", {"kernel_size": 5}, 144),
        ("drbnet", {"kernel_size": 9}, 160),
        ("drbnet", {"kernel_size": 31}, 336),
        ("nrknet", {"num_blurs": 2}, 400),
        ("nrknet", {"num_blurs": 25}, 432),
        ("nrknet", {"num_steps": (4, 2, 1)}, 496),
        ("nrknet", {"num_steps": (3, 4, 1)}, 496),
        ("nrknet", {"num_steps": (3, 2, 3)}, 448),
    ],
)
def test_the_halo_grows_with_the_attributes(network, changes, halo):
    assert create(network, **changes).tiling.halo == halo
