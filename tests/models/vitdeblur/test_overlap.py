"""Training on overlapping windows computes what restoration does."""

import functools

import jax
import numpy as np
import pytest

from tests.small_model import small_configuration, small_pretrained
from vitdeblur_jax import deblur
from vitdeblur_jax.models.networks import config_of, create_network
from vitdeblur_jax.utils.errors import UserError

CONTEXTUAL = {"charbonnier": 1.0, "contextual_cosine": 0.2}


@functools.partial(jax.jit, static_argnums=0)
def trained_on(model, variables, images):
    """Returns the output that the restoration losses see."""
    arguments = variables, images, images[..., :3], True, frozenset()
    return model.apply(*arguments, method="training_outputs")[0]


# One window, and nine, of which the last fit worse.
@pytest.mark.parametrize(("crop", "patch_overlap"), [(42, 0), (60, 0), (60, 3)])
def test_the_training_output_is_that_of_restoration(crop, patch_overlap):
    pretrained = small_pretrained(3, train_stride=11, decoder__patch_overlap=patch_overlap)
    images = np.random.default_rng(crop).random((2, crop, crop, 3), np.float32)
    restored = trained_on(pretrained.model, pretrained.variables, images)
    expected = [deblur(image, pretrained, stride=11) for image in images]
    np.testing.assert_allclose(restored, expected, rtol=1e-5, atol=1e-5)
    alone = pretrained.model.clone(train_stride=0)
    difference = trained_on(alone, pretrained.variables, images[:, :42, :42])
    assert (np.abs(difference - restored[:, :42, :42]).max() < 1e-5) == (crop == 42)


def test_what_cannot_overlap_is_refused():
    model = create_network(small_configuration(train_stride=11))
    model.check_training(60, 2, {"charbonnier": 1.0})
    with pytest.raises(UserError, match=r"train_stride is 11, so .* 42 pixels, but crop is 38"):
        model.check_training(38, 2, {"charbonnier": 1.0})
    with pytest.raises(UserError, match="set train_stride or the contextual weights in loss to 0"):
        model.check_training(60, 2, CONTEXTUAL)
    with pytest.raises(UserError, match="so it must be at most 36"):
        model.clone(train_stride=37).check_training(90, 2, {"charbonnier": 1.0})


def test_the_stride_is_saved_with_the_network():
    config = config_of(create_network(small_configuration(train_stride=11)))
    assert config.tiling.train_stride == 11
    assert create_network(config).train_stride == 11
