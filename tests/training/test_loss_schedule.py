"""Weights of loss terms that change during a run."""

import functools
import importlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vitdeblur_jax.distributed.sharding import local_mesh, state_sharding
from vitdeblur_jax.training.configuration import check_config
from vitdeblur_jax.training.defaults import default_config
from vitdeblur_jax.training.loss_schedule import changing_weights, largest_weights, phases
from vitdeblur_jax.training.objective import weighted_objective
from vitdeblur_jax.training.state import create_state
from vitdeblur_jax.training.step import compile_train_step
from vitdeblur_jax.utils.errors import UserError

MSE_FROM_3 = (3, (("charbonnier", 0), ("mse", 2.0)))
SSIM_FROM_5 = (5, (("mse", 0.0), ("ssim", 0.5)))


class OneConvolution(nn.Module):
    @nn.compact
    def __call__(self, image):
        return nn.Conv(3, (3, 3))(image)


def scheduled(*schedule, num_steps=10, **changes):
    config = default_config()
    config.update(num_steps=num_steps, loss_schedule=schedule, **changes)
    return config


def test_weights_change_at_the_first_step_of_a_phase():
    config = scheduled(MSE_FROM_3, SSIM_FROM_5)
    check_config(config, OneConvolution())
    weights_at = jax.jit(changing_weights(config))
    found = [{name: float(w) for name, w in weights_at(step).items()} for step in range(7)]
    usual = {"charbonnier": 1, "mse": 0, "ssim": 0}
    squares = {"charbonnier": 0, "mse": 2, "ssim": 0}
    # A phase replaces the weights of `loss`, not those of the phase before.
    similarity = {"charbonnier": 1, "mse": 0, "ssim": 0.5}
    assert found == [*[usual] * 3, *[squares] * 2, *[similarity] * 2]
    largest = {name: weight for name, weight in largest_weights(config).items() if weight}
    assert largest == {"charbonnier": 1, "mse": 2, "ssim": 0.5}


def test_without_phases_no_weight_changes():
    assert changing_weights(scheduled()) is None
    assert changing_weights(scheduled((4, (("charbonnier", 1.0),)))) is None


def test_the_weights_are_no_arrays_on_a_device():
    # JAX would copy them to the host at the first step, which fails on a GPU.
    constants = jax.make_jaxpr(changing_weights(scheduled(MSE_FROM_3)))(0).consts
    assert not [constant for constant in constants if isinstance(constant, jax.Array)]


def test_a_step_minimizes_the_loss_of_its_phase():
    network, config = OneConvolution(), scheduled((1, (("charbonnier", 0.0), ("mse", 2.0))))
    rng = np.random.default_rng(0)
    batch = {n: rng.integers(0, 256, (2, 8, 8, 3), np.uint8) for n in ("blurred", "sharp")}
    variables = network.init(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
    objective = functools.partial(weighted_objective, network, largest_weights(config))
    step = compile_train_step(
        local_mesh(),
        objective=objective,
        optimizer=optax.sgd(0.1),
        weights_at=changing_weights(config),
    )
    state = create_state(variables, variables["params"], optax.sgd(0.1), with_ema=False)
    state = jax.device_put(state, state_sharding(local_mesh(), state))
    for weights in ({"charbonnier": 1.0}, {"mse": 2.0}):
        constant = functools.partial(weighted_objective, network, weights)
        images = (jnp.asarray(batch[name]) / 255 for name in ("blurred", "sharp"))

        def loss(params, objective=constant, images=tuple(images)):
            return objective({"params": params}, *images, jax.random.key(0)).loss

        value, gradient = jax.value_and_grad(loss)(state.params)
        expected = jax.tree.map(lambda p, g: np.asarray(p - 0.1 * g), state.params, gradient)
        state, metrics = step(state, batch)
        np.testing.assert_allclose(metrics["loss"], value, rtol=1e-6)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6),
            state.params,
            expected,
        )


def test_an_infinite_term_of_weight_zero_changes_nothing():
    network, batch = OneConvolution(), jnp.full((2, 8, 8, 3), 0.5)
    variables = network.init(jax.random.key(0), batch)

    def loss(params, blurred, changed):
        return weighted_objective(
            network,
            {"charbonnier": 1.0, "mse": 2.0},
            {"params": params},
            blurred,
            batch,
            jax.random.key(0),
            changed=changed,
        ).loss

    bright = batch.at[0, 0].set(1e30)  # its square overflows
    params = jax.tree.map(jnp.ones_like, variables["params"])
    assert not np.isfinite(loss(params, bright, {"mse": jnp.float32(1)}))
    changed = {"charbonnier": jnp.float32(0), "mse": jnp.float32(0)}
    value, gradient = jax.value_and_grad(loss)(params, bright, changed)
    assert value == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (((5, (("mse", 1.0),)), (3, ())), r"first steps \[5, 3\]; they must increase"),
        (((10, (("mse", 1.0),)),), r"first steps \[10\]; .* less than num_steps, which is 10"),
        (((0, (("mse", 1.0),)),), r"loss_schedule is .*first_step, \(\(term, weight\)"),
        (((5, ("mse", 1.0)),), r"loss_schedule is .*first_step, \(\(term, weight\)"),
        (((5, (("mse", -1.0),)),), r"loss_schedule is .*first_step, \(\(term, weight\)"),
        (((5, (("msee", 1.0),)),), "loss_schedule, step 5 has no key 'msee'.* 'mse'"),
        (((5, (("charbonnier", 0.0),)),), "from step 5 on, all weights in loss are 0"),
        (((5, (("ssim", 1.0),)),), r"loss.ssim needs 11 x 11 pixels, but a crop of 8"),
    ],
)
def test_a_schedule_that_cannot_be_is_told(schedule, message):
    with pytest.raises(UserError, match=message):
        check_config(scheduled(*schedule, crop=8), OneConvolution())


@pytest.mark.parametrize(
    ("name", "first", "is_similarity"),
    [
        ("gkmnet", 1000, lambda epoch: (epoch % 1000) % 200 < 100),
        ("nrknet", 1000, lambda epoch: (epoch % 1000) % 200 > 100),
    ],
)
def test_published_phases_of_structural_similarity(name, first, is_similarity):
    config = importlib.import_module(f"configs.{name}").get_config()
    plan = phases(config)
    epochs = round(config.num_steps / 87.5)
    for epoch in range(epochs):
        step = int(epoch * 87.5)  # the first one
        weights = next(w for start, w in reversed(plan) if start <= step)
        used = {term for term, weight in weights.items() if weight}
        if epoch >= first and is_similarity(epoch):
            assert used == {"pyramid_ssim"}, epoch
        else:
            assert used == {"pyramid_mse", "pyramid_fourier"} & set(config.loss), epoch
