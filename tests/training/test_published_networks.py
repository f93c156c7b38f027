"""The other published networks go through the training loop, each by its own config file."""

import functools
import importlib
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import made_up_data
from tests.training.same_run import assert_same_run, lines
from tests.training.small_run import after_step
from tests.training.test_loop import send
from vitdeblur_jax.models import abstract_variables
from vitdeblur_jax.models.network import own_loss_terms
from vitdeblur_jax.training import train
from vitdeblur_jax.training.configuration import check_config
from vitdeblur_jax.training.log import TrainingLog
from vitdeblur_jax.training.losses import loss_weights
from vitdeblur_jax.training.objective import weighted_objective

PAIRS = ((2, 2),) * 4
NETWORKS = {
    "aifnet": {
        **{"encoder_widths": (2,) * 5, "decoder_widths": (2,) * 4},
        **{"levels": 3, "deblurring_widths": (2,) * 4},
    },
    "dpdnet": {"widths": (4,) * 5},
    "drbnet": {
        **{"widths": (4,) * 4, "image_widths": PAIRS},
        **{"filter_widths": PAIRS, "residual_widths": PAIRS},
    },
    "gkmnet": {"widths": (2, 3, 4), "num_blurs": 4},
    "ifanet": {"widths": (4,) * 4, "iterations": 2},
    "kpac": {"width": 4, "attention_widths": (2,) * 4},
    "mdp": {"widths": (4,) * 5},
    "nrknet": {"widths": (3, 4, 5), "num_blurs": 2},
    "restormer": {"width": 4, "depths": (1,) * 4, "heads": (1, 2, 2, 4), "refinement_depth": 1},
}
SLOW_TO_TRACE = ("aifnet", "gkmnet", "ifanet")
CROP = 48  # pixels


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """DPDD of random images in 16 bits."""
    root = tmp_path_factory.mktemp("dpdd")
    made_up_data.dpdd(root, 16, (CROP + 2, CROP + 8), {"train": 4, "val": 1})
    return root


def small_config(name, root="", num_steps=10):
    """Returns the config file's settings with a small network, a small crop and few steps."""
    config = importlib.import_module(f"configs.{name}").get_config()
    config.model.update(NETWORKS[name])
    layout = "dpdd_dual_pixel" if "dual" in config.data.layout else "dpdd"
    config.data.update(root=str(root), layout=layout, bit_depth=16, hold_out=0, workers=0)
    config.update(num_steps=num_steps, crop=CROP, batch_size=2, progressive=())
    config.update(log_every=1, save_every=5)
    config.optimizer.update(milestones=(), gammas=(), constant_steps=num_steps // 2)
    config.loss_schedule = tuple(
        (num_steps // 2, changes) for _, changes in config.loss_schedule[:1]
    )
    config.validation.update(every=10, num_images=1, num_logged_images=1)
    return config


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in SLOW_TO_TRACE else n for n in NETWORKS],
)
def test_the_terms_with_a_weight_are_computed_and_the_state_keeps_its_shapes(name):
    config = small_config(name)
    network = check_config(config)
    variables = abstract_variables(network)
    weights = loss_weights(config.loss)
    objective = functools.partial(weighted_objective, network, weights)
    views = jax.ShapeDtypeStruct((2, CROP, CROP, 3 * network.views), jnp.float32)
    sharp = jax.ShapeDtypeStruct((2, CROP, CROP, 3), jnp.float32)
    result = jax.eval_shape(objective, variables, views, sharp, jax.random.key(0))
    own = own_loss_terms(network)
    expected = {"charbonnier", *(term for term in weights if weights[term])} | set(own)
    assert result.terms.keys() == expected
    assert result.per_image.shape == (2,)
    state = {
        collection: leaves for collection, leaves in variables.items() if collection != "params"
    }
    assert result.model_state == state


def test_two_steps(images, tmp_path):
    config = small_config("dpdnet", images, num_steps=2)
    config.validation.every = 0
    assert train(config, tmp_path / "run") == 0
    assert [record["step"] for record in lines(tmp_path / "run", "train")] == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_ten_steps_in_one_go_and_resumed(name, images, tmp_path, monkeypatch):
    config, whole, resumed = small_config(name, images), tmp_path / "whole", tmp_path / "resumed"
    assert train(config, whole) == 0
    with monkeypatch.context() as patch:
        terminate = functools.partial(send, signal.SIGTERM)
        patch.setattr(TrainingLog, "advance", after_step(6, terminate))
        assert train(config, resumed) == 128 + signal.SIGTERM
    assert train(config, resumed) == 0
    losses = [record["loss"] for record in lines(whole, "train")]
    assert len(losses) == 10
    assert np.isfinite(losses).all()
    assert_same_run(resumed, whole, config)
