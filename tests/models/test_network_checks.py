"""Networks that update their batch statistics in `training_outputs` can be trained."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.small_model import small_pretrained
from vitdeblur_jax.models.network import initial_variables, training_outputs
from vitdeblur_jax.models.network_checks import check_network
from vitdeblur_jax.utils.errors import UserError


class _Normalizing(nn.Module):
    """Its call has no argument `train`."""

    def setup(self):
        self.dense, self.norm = nn.Dense(3), nn.BatchNorm()

    def __call__(self, image):
        return self.norm(self.dense(image), use_running_average=True)


class _Training(_Normalizing):
    def training_outputs(self, blurred, sharp, train, terms):
        return self.norm(self.dense(blurred), use_running_average=not train), {}


class _WithoutStatistics(nn.Module):
    @nn.compact
    def __call__(self, image):
        return nn.Dense(3)(image)

    def training_outputs(self, blurred, sharp, train, terms):
        return self(blurred), {}


@pytest.mark.parametrize(
    ("network", "collections"), [(_Training(), ["batch_stats"]), (_WithoutStatistics(), [])]
)
def test_training_outputs_updates_what_there_is(network, collections):
    check_network(network)
    images = jnp.ones((2, 8, 8, 3))
    variables = initial_variables(network, 0)
    arguments = network, variables, images, images, frozenset(), jax.random.key(0)
    _, _, updated = training_outputs(*arguments)
    assert list(updated) == collections
    if updated:
        expected = 0.01 * images[0, 0, 0] @ variables["params"]["dense"]["kernel"]  # momentum 0.99
        np.testing.assert_allclose(updated["batch_stats"]["norm"]["mean"], expected, rtol=1e-5)


def test_statistics_that_nothing_updates_are_refused():
    with pytest.raises(UserError, match="_Normalizing has batch statistics, but its call has no"):
        check_network(_Normalizing())


def test_vitdeblur_with_another_part_passes():
    model = small_pretrained().model
    check_network(model.clone(decoder=model.decoder.clone(patch_overlap=2)))
