"""A mistake in an objective or in a network's own terms is one line, before anything is written."""

import itertools
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.training.small_run import images
from vitdeblur_jax import UserError
from vitdeblur_jax.models import initial_variables
from vitdeblur_jax.models.network import training_outputs
from vitdeblur_jax.training import default_config, train
from vitdeblur_jax.training.objective import Objective, restoration_objective
from vitdeblur_jax.training.objective_checks import (
    RESERVED_TERMS,
    check_is_function,
    check_objective,
)
from vitdeblur_jax.training.step import fit

BATCH, CROP = 2, 16


class Own(nn.Module):
    """Has batch statistics and dropout."""

    @nn.compact
    def __call__(self, image, train=False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(3)(image))
        return nn.Dropout(0.5, deterministic=not train)(x)


def objective(network, variables, blurred, sharp, rng, **changes):
    restored, _, state = training_outputs(network, variables, blurred, sharp, frozenset(), rng)
    each = jnp.abs(restored - sharp).mean(axis=(1, 2, 3))
    return Objective(each.mean(), {"l1": each.mean()}, each, state)._replace(
        **{name: change(each) for name, change in changes.items()}
    )


def changed(**changes):
    return lambda *arguments: objective(*arguments, **changes)


def four_arguments(network, variables, blurred, sharp):
    return 0


def of_other_shapes(network, variables, blurred, sharp, rng):
    return blurred[:, 1:] - sharp


WRONG = [
    (lambda *arguments: objective(*arguments).loss, r"returns shape \(\) .*; it must return .*Obj"),
    (lambda *arguments: tuple(objective(*arguments)), "returns type tuple; it must return"),
    (lambda *_: None, "returns type NoneType; it must return"),
    (changed(loss=lambda x: x), r"a loss of shape \(2,\) .*take the mean"),
    (changed(loss=lambda x: x.mean() > 0), "a loss of shape .* and dtype bool"),
    (changed(terms=lambda x: {"l1": x}), r"the term 'l1' of shape \(2,\) .*must be a scalar"),
    (changed(terms=lambda x: x), "terms of shape .*; they must be a dict"),
    (changed(per_image=lambda x: x.mean()), r"a per_image of shape \(\).*of shape \(2,\)"),
    (changed(model_state=lambda _: {}), "another model_state .*batch_stats/.* is missing"),
    (changed(model_state=lambda x: x), r"a model_state of shape \(2,\)"),
    (four_arguments, "'four_arguments' cannot be traced .*takes 4 .*called as objective.network"),
    (of_other_shapes, r"cannot be traced \(test_objective_checks.py, line \d+: TypeError: sub"),
]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return images(tmp_path_factory.mktemp("pairs"), 2)


def own_config(root, network=None, **changes):
    config = default_config(network)
    config.update(num_steps=1, batch_size=BATCH, crop=CROP, log_every=1)
    config.data.root = str(root)
    config.optimizer.schedule = "constant"
    config.validation.every = 0
    config.update(changes)
    return config


def assert_refused(message, pairs, tmp_path, network, objective=None):
    with pytest.raises(UserError, match=message) as refusal:
        train(own_config(pairs, network), tmp_path / "run", objective, network)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("wrong", "message"), WRONG)
def test_a_wrong_objective_is_told_before_anything_is_written(wrong, message, pairs, tmp_path):
    assert_refused(message, pairs, tmp_path, Own(), wrong)


@pytest.mark.parametrize("name", RESERVED_TERMS)
def test_a_term_does_not_replace_another_entry_of_the_log(name):
    with pytest.raises(UserError, match=f"the terms of .*: '{name}' is another entry"):
        check_objective(
            lambda *rest: objective(Own(), *rest, terms=lambda x: {name: x.mean()}),
            *(Own(), BATCH, CROP, {}),
        )


def test_an_objective_is_a_function():
    with pytest.raises(UserError, match="the objective is 'l1'; it must be a function of"):
        check_is_function("l1")


class _Terms(nn.Module):
    LOSS_TERMS: ClassVar = {"mine": 1.0}

    @nn.compact
    def __call__(self, image):
        return nn.Dense(3)(image)


def with_outputs(outputs):
    class Terms(_Terms):
        def training_outputs(self, blurred, sharp, train, terms):
            restored = self(blurred)
            return outputs(restored, jnp.abs(restored - sharp))

    return Terms()


class _Reserved(_Terms):
    LOSS_TERMS: ClassVar = {"loss": 1.0}


OWN_TERMS = [
    (_Terms(), "'mine' in LOSS_TERMS, but no method `training_outputs`"),
    (_Reserved(), "_Reserved.LOSS_TERMS: 'loss' is another entry of the log"),
    (with_outputs(lambda x, d: (x, {"mien": d.mean()})), "'mine' .* `training_outputs` .*'mien'"),
    (with_outputs(lambda x, d: (x, {})), "`training_outputs` returns no term"),
    (with_outputs(lambda x, d: (x, {"mine": d.mean(), "l1": d.mean()})), "'l1'; add it to LOSS_T"),
    (with_outputs(lambda x, d: (x, {"mine": d})), r"'mine' of shape \(2, 16, 16, 3\); it must be"),
    (with_outputs(lambda x, d: (x[:, 1:], {"mine": d.mean()})), "returns images of 2 x 15 x 16 x"),
    (with_outputs(lambda x, d: x), "returns something else; it must return the restored images"),
]


@pytest.mark.parametrize(("network", "message"), OWN_TERMS)
def test_wrong_own_terms_are_told_before_anything_is_written(network, message, pairs, tmp_path):
    assert_refused(message, pairs, tmp_path, network)


def test_fit_tells_the_same():
    batch = {name: np.zeros((BATCH, CROP, CROP, 3), np.uint8) for name in ("blurred", "sharp")}

    def of_batch(variables, *rest):
        return restoration_objective(
            Own(), variables, *rest, loss=lambda x, y: jnp.abs(x - y).mean()
        )

    variables = initial_variables(Own(), 0)
    with pytest.raises(UserError, match=r"returns a per_image of shape \(\)"):
        fit(variables, itertools.repeat(batch, 1), objective=of_batch, optimizer=optax.sgd(1.0))


def test_an_objective_is_traced_with_the_shapes_of_the_run():
    seen = []

    def watched(variables, blurred, sharp, rng, *, extra):
        seen.append((blurred.shape, sharp.shape, extra.shape))
        return objective(Own(), variables, blurred, sharp, rng)

    check_objective(watched, Own(), 3, 20, {"extra": jax.ShapeDtypeStruct((7,), jnp.float32)})
    assert seen == [((3, 20, 20, 3), (3, 20, 20, 3), (7,))]
