"""The configs of all networks: saved as JSON, read back, and checked before anything is traced."""

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
