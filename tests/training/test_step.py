import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.small_model import small_pretrained
from tests.training.several_processes import on_devices
from vitdeblur_jax.distributed.sharding import batch_sharded, local_mesh, replicated
from vitdeblur_jax.training.defaults import default_config
from vitdeblur_jax.training.losses import loss_weights
from vitdeblur_jax.training.objective import Objective, weighted_objective
from vitdeblur_jax.training.optimizer import trained_part
from vitdeblur_jax.training.state import create_state
from vitdeblur_jax.training.step import compile_train_step, fit, train_step
from vitdeblur_jax.utils.errors import UserError

WEIGHTS = loss_weights(default_config("base").loss)
FROZEN = (("contextual_encoder", "projector"),)


def batch_of(count, seed=0):
    rng = np.random.default_rng(seed)
    shape = (count, 46, 46, 3)
    pixels = {k: rng.integers(256, size=shape, dtype=np.uint8) for k in ("blurred", "sharp")}
    return jax.device_put(pixels, batch_sharded(local_mesh()))


def run(steps, *, optimizer=None, batches=batch_of, ema_decay=0.15, grad_accum_steps=1, **model):
    """Returns the states after each of some steps, on the host, their metrics, and the step."""
    pretrained = small_pretrained(**model)
    optimizer = optimizer or optax.sgd(0.1)
    step = compile_train_step(
        local_mesh(),
        objective=functools.partial(weighted_objective, pretrained.model, WEIGHTS),
        optimizer=optimizer,
        frozen=FROZEN,
        ema_decay=ema_decay,
        grad_accum_steps=grad_accum_steps,
    )
    trained = trained_part(pretrained.variables["params"], FROZEN)
    state = create_state(pretrained.variables, trained, optimizer, with_ema=True)
    state = jax.device_put(state, replicated(local_mesh()))
    states, measured = [], []
    for number in range(steps):
        state, metrics = step(state, batches(4, number))
        states.append(jax.device_get(state))
        measured.append(jax.device_get(metrics))
    return states, measured, step


@pytest.fixture(scope="module")
def three_steps():
    return run(3)


def assert_same_steps(found, expected, bound):
    """Asserts the same metrics and parameters, and thus gradients, after each step."""
    for one, other in zip(found[1], expected[1], strict=True):
        for name in ("loss", "charbonnier", "contextual_cosine", "sharpness", "gradient_norm"):
            np.testing.assert_allclose(one[name], other[name], rtol=bound, err_msg=name)
    for one, other in zip(found[0], expected[0], strict=True):
        for leaf, wanted in zip(*map(jax.tree.leaves, (one.params, other.params)), strict=True):
            np.testing.assert_allclose(leaf, wanted, rtol=0, atol=bound)


def test_a_second_batch_is_not_traced_again(three_steps):
    states, metrics, step = three_steps
    assert step._cache_size() == 1
    assert [int(state.step) for state in states] == [1, 2, 3]
    assert all(measured["finite"] for measured in metrics)


def test_rematerialization_changes_nothing(three_steps):
    assert_same_steps(run(3, remat=True), three_steps, 2e-6)


def test_two_halves_are_the_whole_but_for_batch_norm(three_steps):
    in_parts = run(3, grad_accum_steps=2)
    assert_same_steps(in_parts, three_steps, 2e-6)
    # The parts pass through batch norm one by one: its running mean moves once for each.
    means = [
        states[0].model_state["batch_stats"]["contextual_encoder"]["projector"]["batch_norm"][
            "mean"
        ]
        for states, *_ in (in_parts, three_steps)
    ]
    assert np.abs(means[0] - means[1]).max() > 1e-3


def test_the_average_follows_its_definition(three_steps):
    path = ("decoder", "prediction", "bias")
    average = np.float64(_at(small_pretrained().variables["params"], path))
    for step, state in enumerate(three_steps[0]):
        decay = min(0.15, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * _at(state.params, path)
        np.testing.assert_allclose(_at(state.ema_params, path), average, atol=1e-7)


def _at(tree, path):
    for key in path:
        tree = tree[key]
    return np.asarray(tree)


def _minimal(kernels):
    """Returns variables with one kernel in each of the named parts."""
    params = {part: {"kernel": jnp.full((), value)} for part, value in kernels.items()}
    return {"params": params}


def _product(variables, blurred, sharp, rng):
    """An objective: the mean light of each sharp image, times all kernels."""
    kernels = [part["kernel"] for part in variables["params"].values()]
    each = sharp.mean(axis=(1, 2, 3)) * functools.reduce(jnp.multiply, kernels)
    return Objective(each.mean(), {}, each, {})


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_parts_keep_the_order_of_the_images(parts):
    def objective(variables, blurred, sharp, rng):
        result = _product(variables, blurred, sharp, rng)
        each = jnp.where(sharp[:, 0, 0, 0] > 0.5, jnp.nan, result.per_image)
        return result._replace(per_image=each)

    optimizer = optax.sgd(0.1)
    variables = _minimal({"decoder": 2.0})
    state = create_state(variables, variables["params"], optimizer, with_ema=False)
    batch = {key: jnp.zeros((6, 2, 2, 3), jnp.uint8) for key in ("blurred", "sharp")}
    batch["sharp"] = batch["sharp"].at[4].set(255)
    settings = {"objective": objective, "optimizer": optimizer, "grad_accum_steps": parts}
    _, metrics = train_step(state, batch, **settings)
    np.testing.assert_array_equal(metrics["images_finite"], np.arange(6) != 4)
    np.testing.assert_allclose(metrics["loss"], 2 / 6)


def test_what_is_not_finite_changes_nothing_but_the_counts():
    def objective(variables, blurred, sharp, rng):
        result = _product(variables, blurred, sharp, rng)
        return result._replace(loss=result.loss * jnp.nan)

    optimizer = optax.adam(0.1)
    variables = _minimal({"decoder": 2.0})
    before = create_state(variables, variables["params"], optimizer, with_ema=True)
    settings = {"objective": objective, "optimizer": optimizer, "ema_decay": 0.9}
    after, metrics = train_step(before, batch_of(4), **settings)
    assert not metrics["finite"]
    assert (int(after.step), int(after.skipped)) == (1, 1)
    jax.tree.map(
        np.testing.assert_array_equal,
        after.replace(step=before.step, skipped=before.skipped),
        before,
    )


def test_the_scale_of_the_learning_rate_scales_the_update():
    variables, batch = _minimal({"decoder": 2.0}), batch_of(4)

    def params_after(rate, **arguments):
        optimizer = optax.adamw(rate, weight_decay=0.1)
        state = create_state(variables, variables["params"], optimizer, with_ema=False)
        settings = {"objective": _product, "optimizer": optimizer}
        return train_step(state, batch, **settings, **arguments)[0].params

    scaled = params_after(0.1, lr_scale=jnp.float32(0.25))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6), scaled, params_after(0.025)
    )
    jax.tree.map(
        np.testing.assert_array_equal,
        params_after(0.1, lr_scale=jnp.float32(0)),
        variables["params"],
    )


def test_frozen_parameters_stay_and_take_no_memory():
    optimizer = optax.adamw(0.1)
    frozen = (("tokenizer",),)
    variables = _minimal({"decoder": 2.0, "tokenizer": 3.0})
    trained = trained_part(variables["params"], frozen)
    state = create_state(variables, trained, optimizer, with_ema=False)
    settings = {"objective": _product, "optimizer": optimizer, "frozen": frozen}
    after, metrics = train_step(state, batch_of(4), **settings)
    assert after.params["tokenizer"]["kernel"] == 3
    assert after.params["decoder"]["kernel"] != 2
    light = np.asarray(batch_of(4)["sharp"]).mean() / 255
    np.testing.assert_allclose(metrics["gradient_norm"], 3 * light, rtol=1e-5)
    assert len([x for x in jax.tree.leaves(state.opt_state) if x.dtype == np.float32]) == 2


_ON_TWO_DEVICES = """
import sys, jax, numpy as np
assert len(jax.devices()) == 2
from tests.training.test_step import run
states, metrics, _ = run(3, grad_accum_steps=int(sys.argv[2]))
leaves = jax.tree.leaves((states, metrics))
np.savez(sys.argv[1], *leaves)
"""


@pytest.mark.slow
def test_two_devices_compute_what_one_does(tmp_path, three_steps):
    two = _on_two_devices(tmp_path / "two.npz", grad_accum_steps=1)
    leaves = jax.tree.leaves(three_steps[:2])
    assert len(leaves) == len(two)
    for one, other in zip(two, leaves, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-6)


@pytest.mark.slow
def test_two_devices_take_parts_as_one_does(tmp_path):
    two = _on_two_devices(tmp_path / "two.npz", grad_accum_steps=2)
    for one, other in zip(two, jax.tree.leaves(run(3, grad_accum_steps=2)[:2]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-6)


def _on_two_devices(path, grad_accum_steps):
    on_devices(2, ["-c", _ON_TWO_DEVICES, str(path), str(grad_accum_steps)], path.parent)
    found = np.load(path)
    return [found[f"arr_{number}"] for number in range(len(found.files))]


@pytest.mark.slow
def test_bfloat16_trains_as_float32_does():
    """200 steps side by side on a learnable task: bring back the light that was taken off."""
    losses = {}
    for dtype in ("float32", "bfloat16"):
        states, metrics, _ = run(200, optimizer=optax.adam(1e-3), batches=_darkened, dtype=dtype)
        losses[dtype] = np.array([measured["charbonnier"] for measured in metrics])
        kinds = {leaf.dtype for leaf in jax.tree.leaves(states[-1].params)}
        assert kinds == {np.dtype("float32")}
    for loss in losses.values():
        assert loss[-50:].mean() < 0.5 * loss[:5].mean()
    print({k: (v[:5].mean(), v[-50:].mean()) for k, v in losses.items()})
    ends = [loss[-50:].mean() for loss in losses.values()]
    np.testing.assert_allclose(ends[1], ends[0], rtol=0.05)


def _darkened(count, seed):
    sharp = batch_of(count, seed)["sharp"] // 4 + 120
    return {"blurred": sharp - 60, "sharp": sharp}


def _sum_to_brightness(variables, blurred, sharp, rng):
    """Wants x + y to be the sharp images' brightness."""
    total = sum(jax.tree.leaves(variables["params"]))
    each = (total - sharp.mean(axis=(1, 2, 3))) ** 2
    return Objective(each.mean(), {}, each, {})


def _fit(rate, start=3.0, objective=_sum_to_brightness, frozen=(("still",),)):
    variables = {
        "params": {"moved": {"x": jnp.float32(start)}, "still": {"y": jnp.float32(0.5)}},
    }
    white = {key: np.full((2, 4, 4, 3), 255, np.uint8) for key in ("blurred", "sharp")}
    fitted = fit(
        variables,
        3 * [white],
        objective=objective,
        optimizer=optax.sgd(rate),
        frozen=frozen,
    )
    return variables["params"], fitted["params"]


def test_a_short_training_takes_a_step_a_batch():
    before, after = _fit(0.1)
    # Each step takes a fifth of the distance to 1.
    np.testing.assert_allclose(after["moved"]["x"] + 0.5, 1 + 2.5 * 0.8**3, rtol=1e-6)
    assert after["still"]["y"] == 0.5
    assert before["moved"]["x"] == 3  # what was given is still there


@pytest.mark.parametrize("frozen", ["still", ["still/y"], (path for path in ["still"])])
def test_a_short_training_freezes_what_a_string_names(frozen):
    _, after = _fit(0.1, frozen=frozen)
    assert after["still"]["y"] == 0.5
    assert after["moved"]["x"] != 3


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        ("stil", r"'stil' \(did you mean 'still'\?\)"),
        (["moved", "still"], "nothing would be trained"),
    ],
)
def test_a_short_training_refuses_to_freeze_nothing_or_all(frozen, message):
    with pytest.raises(UserError, match=message):
        _fit(0.1, frozen=frozen)


def test_a_short_training_is_compiled_once():
    traced = []

    def objective(*arguments):
        traced.append(arguments)
        return _sum_to_brightness(*arguments)

    _fit(0.1, objective=objective)
    assert len(traced) == 1


def test_a_short_training_that_is_not_finite_is_refused():
    with pytest.raises(UserError, match="3 of 3 steps were not finite; a lower learning rate"):
        _fit(0.1, start=np.inf)
