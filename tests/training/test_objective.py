import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from vitdeblur_jax.models import abstract_variables, create
from vitdeblur_jax.models.vitdeblur.model import ViTDeblur
from vitdeblur_jax.models.vitdeblur.published import to_published
from vitdeblur_jax.training.objective import (
    restoration_objective,
    weighted_objective,
)
from vitdeblur_jax.training.optimizer import trained_part

PUBLISHED = {"charbonnier": 1.0, **ViTDeblur.LOSS_TERMS}
KEY = jax.random.key(0)
PATCH = "primary_encoder.pretrain_mae.patch_embed.proj"


def _heads_without_gradient(model, weights):
    return model.params_without_gradient(frozenset(name for name in weights if weights[name]))


def _gradients(pretrained, weights, blurred, sharp):
    """Returns the objective and its gradient with respect to the parameters."""

    @jax.jit
    def run(variables, blurred, sharp):
        def loss(params):
            changed = {**variables, "params": params}
            result = weighted_objective(pretrained.model, weights, changed, blurred, sharp, KEY)
            return result.loss, result

        return jax.grad(loss, has_aux=True)(variables["params"])

    gradients, result = run(pretrained.variables, blurred, sharp)
    return result, gradients


@pytest.fixture(scope="module")
def golden_step(base_model, data_folder, optimized):
    """One training step of the PyTorch reference, and ours."""
    golden = dict(np.load(data_folder / "training_seed0.npz"))
    images = [golden[name] / np.float32(255) for name in ("blur_rgb", "sharp_rgb")]
    return golden, *_gradients(base_model, PUBLISHED, *images)


@pytest.mark.slow
def test_every_published_term_matches_the_reference(golden_step):
    golden, result, _ = golden_step
    terms = {name: float(value) for name, value in result.terms.items()}
    ours = {
        "total_loss/final_loss": float(result.loss),
        "total_loss/l1": terms["charbonnier"],
        "total_loss/vicreg": 0.2 * (terms["contextual_cosine"] + 0.3 * terms["sharpness"]),
        "self_learning/total": terms["contextual_cosine"] + 0.3 * terms["sharpness"],
        "self_learning/recons": terms["contextual_cosine"],
        "self_learning/cls": 0.3 * terms["sharpness"],
        "vicreg/repr": 0.1 * terms["vicreg_invariance"],
        "vicreg/std": 0.1 * terms["vicreg_variance"],
        "vicreg/cov": 0.01 * terms["vicreg_covariance"],
    }
    ours["self_learning/vicreg"] = 0.1 * sum(ours[f"vicreg/{k}"] for k in ("repr", "std", "cov"))
    published = {name.removeprefix("loss:"): golden[name] for name in golden if "loss:" in name}
    assert ours.keys() == published.keys()
    for name, value in ours.items():
        np.testing.assert_allclose(value, published[name], rtol=1e-4, err_msg=name)


@pytest.mark.slow
def test_batch_statistics_match_the_reference(golden_step):
    golden, result, _ = golden_step
    statistics = result.model_state["batch_stats"]["contextual_encoder"]["projector"]["batch_norm"]
    np.testing.assert_allclose(statistics["mean"], golden["bn_running_mean"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(statistics["var"], golden["bn_running_var"], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_every_gradient_norm_matches_the_reference(golden_step, base_model):
    golden, _, gradients = golden_step
    variables = {**base_model.variables, "params": gradients}
    ours = to_published(base_model.model, variables)
    ours[f"{PATCH}.weight"] = _of_the_reference_patch_kernel(gradients["tokenizer"])
    ours[f"{PATCH}.bias"] = gradients["tokenizer"]["patch_embedding"]["bias"]
    published = {n.removeprefix("gradnorm:"): golden[n] for n in golden if "gradnorm:" in n}
    assert len(published) == 170
    for name, norm in published.items():
        found = np.linalg.norm(np.asarray(ours[name], np.float64))
        np.testing.assert_allclose(found, norm, rtol=1e-3, err_msg=name)


def _of_the_reference_patch_kernel(gradients):
    """Takes the gradient through the folding of the reference's BGR images by the chain rule.

    Its channel k, normalised by the figures of RGB channel k, is RGB channel 2 - k. Kernel W and
    ours V, its bias b and ours a are: V[2 - k] = W[k] std[2 - k] / std[k] and
    a = b + sum of W[k] (mean[2 - k] - mean[k]) / std[k].
    """
    mean, std = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    kernel, bias = (np.float64(gradients["patch_embedding"][name]) for name in ("kernel", "bias"))
    return np.stack(
        [
            kernel[:, :, 2 - k] * std[2 - k] / std[k] + bias * (mean[2 - k] - mean[k]) / std[k]
            for k in range(3)
        ]
    )


def test_what_gets_no_gradient_in_the_reference_is_not_trained(data_folder):
    model = create("base")
    golden = np.load(data_folder / "training_seed0.npz")
    frozen = _heads_without_gradient(model, PUBLISHED)
    ones = jax.tree.map(
        lambda x: np.broadcast_to(np.float32(1), x.shape), abstract_variables(model)
    )
    trained = traverse_util.flatten_dict(trained_part(ones["params"], frozen))
    marked = {
        path: leaf if path in trained else 0 * leaf
        for path, leaf in traverse_util.flatten_dict(ones["params"]).items()
    }
    variables = {**ones, "params": traverse_util.unflatten_dict(marked)}
    names = to_published(model, variables)
    of_params = {n for n in names if "running" not in n and not n.endswith("pos_embed")}
    with_gradient = {name for name in of_params if np.any(names[name])}
    assert with_gradient == {n.removeprefix("gradnorm:") for n in golden if "gradnorm:" in n}


def _images(side, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((2, 3, side, side, 3), np.float32)


@pytest.fixture(scope="module")
def gradients_of_terms(small):
    """The gradient of each term with respect to the parameters, by term and by path."""
    names = sorted(PUBLISHED)
    every_term = dict.fromkeys(names, 1.0)

    @jax.jit
    def run(variables, blurred, sharp):
        def terms(params):
            changed = {**variables, "params": params}
            found = weighted_objective(small.model, every_term, changed, blurred, sharp, KEY).terms
            return jnp.stack([found[name] for name in names])

        _, pull_back = jax.vjp(terms, variables["params"])
        return jax.vmap(lambda cotangent: pull_back(cotangent)[0])(jnp.eye(len(names)))

    flat = traverse_util.flatten_dict(jax.device_get(run(small.variables, *_images(46))))
    return {name: {p: leaf[i] for p, leaf in flat.items()} for i, name in enumerate(names)}


@pytest.mark.parametrize(
    ("changes", "heads"),
    [
        ({}, ["projector"]),
        ({"sharpness": 0.0}, ["projector", "sharpness", "sharpness_norm"]),
        ({"vicreg_variance": 1.0}, []),
    ],
)
def test_only_heads_that_no_term_reaches_have_no_gradient(
    small, gradients_of_terms, changes, heads
):
    weights = PUBLISHED | changes
    without = _heads_without_gradient(small.model, weights)
    assert [head for _, head in without] == heads
    weighted = [name for name, weight in weights.items() if weight]
    for path in gradients_of_terms["charbonnier"]:
        reached = any(np.any(gradients_of_terms[name][path]) for name in weighted)
        is_head = any(path[: len(head)] == head for head in without)
        # Batch norm takes away whatever a bias before it adds.
        constant = path[-3:] == ("projector", "hidden", "bias")
        assert constant or reached != is_head, path


def test_the_loss_is_the_weighted_sum_of_its_terms(small, gradients_of_terms):
    """Its gradient too, so that what is known of the terms holds for the loss."""
    weights = PUBLISHED | {"vicreg_variance": 0.5}
    result, gradients = _gradients(small, weights, *_images(46))
    weighted = [(name, weight) for name, weight in weights.items() if weight]
    np.testing.assert_allclose(
        result.loss, sum(weight * result.terms[name] for name, weight in weighted), rtol=1e-6
    )
    for path, gradient in traverse_util.flatten_dict(gradients).items():
        expected = sum(weight * gradients_of_terms[name][path] for name, weight in weighted)
        bound = 1e-5 * max(1e-3, np.abs(expected).max())
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=bound, err_msg=str(path))


@pytest.fixture(scope="module")
def restore(small):
    return jax.jit(small.model.apply)


def test_without_contextual_terms_the_sharp_image_is_not_encoded(small, restore):
    weights = {name: 0.0 for name in PUBLISHED} | {"charbonnier": 1.0}
    blurred, sharp = _images(46)
    result = jax.jit(functools.partial(weighted_objective, small.model, weights, border=4))(
        small.variables, blurred, sharp, KEY
    )
    restored = restore(small.variables, blurred)
    inside = (np.asarray(restored) - sharp)[:, 4:-4, 4:-4].astype(np.float64)
    expected = np.sqrt(inside**2 + 1e-6).mean(axis=(1, 2, 3))
    assert list(result.terms) == ["charbonnier"]
    np.testing.assert_allclose(result.per_image, expected, rtol=1e-5)
    np.testing.assert_allclose(result.loss, expected.mean(), rtol=1e-5)


@pytest.mark.slow
def test_an_infinite_term_of_weight_zero_is_left_out(small):
    blurred, sharp = map(jnp.array, _images(46))
    far = {**small.variables, "params": _with_far_projections(small.variables["params"])}
    result = weighted_objective(small.model, PUBLISHED, far, blurred, sharp, KEY)
    assert not np.isfinite(result.terms["vicreg_covariance"])
    assert np.isfinite(result.loss)


def _with_far_projections(params):
    flat = traverse_util.flatten_dict(params)
    path = ("contextual_encoder", "projector", "output", "kernel")
    return traverse_util.unflatten_dict(flat | {path: 1e25 * flat[path]})


def test_one_loss_of_the_restoration_can_be_the_objective(small, restore):
    blurred, sharp = map(jnp.asarray, _images(46))

    def squares(restored, sharp):
        return ((restored - sharp) ** 2).mean(axis=(1, 2, 3))

    def objective(variables, blurred, sharp):
        return restoration_objective(small.model, variables, blurred, sharp, KEY, loss=squares)

    found = jax.jit(objective)(small.variables, blurred, sharp)
    restored = restore(small.variables, blurred)
    expected = [
        np.mean((np.asarray(one) - other) ** 2) for one, other in zip(restored, sharp, strict=True)
    ]
    np.testing.assert_allclose(found.per_image, expected, rtol=1e-5)
    np.testing.assert_allclose(found.loss, np.mean(expected), rtol=1e-5)
    for name, collection in found.model_state.items():
        jax.tree.map(np.testing.assert_array_equal, collection, small.variables[name])
