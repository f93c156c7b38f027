import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from tests.small_model import small_pretrained
from vitdeblur_jax.models import abstract_variables, initial_variables
from vitdeblur_jax.models.network import with_numerics
from vitdeblur_jax.utils.errors import UserError


def _assert_near(actual, expected, std):
    """Asserts the bound of parity: 2e-4, of the tensor's std where that is larger than 1."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-4 * max(1.0, std))


@pytest.mark.usefixtures("optimized")
@pytest.mark.slow
def test_the_training_forward_matches_the_reference(base_model, data_folder):
    golden = np.load(data_folder / "training_seed0.npz")
    images = [golden[name] / np.float32(255) for name in ("blur_rgb", "sharp_rgb")]
    outputs, state = _training_outputs(base_model.model, base_model.variables, *images)
    _assert_near(outputs.restored[:, ::8, ::8], golden["restored_rgb"], 1)
    _assert_near(outputs.blurred_logit, golden["logit_blur"], 1)
    _assert_near(outputs.sharp_logit, golden["logit_sharp"], 1)
    # Batch norm over two nearly equal images divides small differences by their small spread.
    np.testing.assert_allclose(outputs.blurred_projection, golden["z_blur"], atol=2e-3)
    np.testing.assert_allclose(outputs.sharp_projection, golden["z_sharp"], atol=2e-3)
    statistics = state["batch_stats"]["contextual_encoder"]["projector"]["batch_norm"]
    np.testing.assert_allclose(statistics["mean"], golden["bn_running_mean"], atol=1e-4)
    np.testing.assert_allclose(statistics["var"], golden["bn_running_var"], atol=1e-4)


@functools.partial(jax.jit, static_argnames=("model", "method"))
def _apply(model, variables, *images, method=None):
    return model.apply(variables, *images, method=method)


@functools.partial(jax.jit, static_argnames="model")
def _training_outputs(model, variables, blurred, sharp):
    """Returns the outputs in training mode and the new batch statistics."""
    arguments = variables, blurred, sharp, True
    return model.apply(*arguments, method="pair_outputs", mutable="batch_stats")


def _image(pretrained, batch=2, seed=1):
    side = pretrained.model.tiling.size
    shape = (batch, side, side, 3 * pretrained.model.views)
    return np.random.default_rng(seed).random(shape, np.float32)


def test_shapes(small):
    """Nothing is compiled."""
    image = _image(small)

    def traced(function, *images, **settings):
        function = functools.partial(function, small.model, **settings)
        return jax.eval_shape(function, small.variables, *images)

    assert traced(_apply, image).shape == (2, 42, 42, 3)
    assert traced(_apply, image, method="features").shape == (2, 36, 36, 5)
    outputs, _ = traced(_training_outputs, image, image)
    assert outputs.contextual_tokens.shape == outputs.sharp_tokens.shape == (2, 82, 32)
    assert outputs.blurred_logit.shape == (2,)
    assert outputs.sharp_projection.shape == (2, 8)


class _MeanOfTokens(nn.Module):
    """Stands in for a decoder: the mean of all it is given, at each pixel, in 5 channels."""

    def __call__(self, primary, contextual):
        mean = sum(tokens.mean(axis=(1, 2)) for tokens in (*primary, contextual))
        side = 4 * math.isqrt(contextual.shape[1])
        return jnp.broadcast_to(mean[:, None, None, None], (len(mean), side, side, 5))


def test_a_model_takes_another_decoder(small):
    model = small.model.clone(decoder=_MeanOfTokens())
    assert "decoder" not in abstract_variables(model)["params"]
    image = _image(small)
    params = {name: leaf for name, leaf in small.variables["params"].items() if name != "decoder"}
    features = _apply(model, {**small.variables, "params": params}, image, method="features")
    primary = _apply(small.model, small.variables, image, method="encode")
    bound = small.model.bind(small.variables)
    given = (*primary, bound.contextual_encoder(primary[-1]))
    expected = sum(np.mean(tokens, axis=(1, 2)) for tokens in given)
    np.testing.assert_allclose(features[:, 7, 9, 3], expected, rtol=1e-4)


@pytest.fixture
def without_shape_checks(monkeypatch):
    """As a user has it: only the tests check the annotations."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.slow
def test_a_model_can_be_tabulated_with_its_flops(small, without_shape_checks):
    for model in (small.model, small.model.clone(decoder=_MeanOfTokens())):
        image = jnp.zeros((1, 46, 46, 3))
        settings = {"depth": 1, "console_kwargs": {"width": 200}}
        table = model.tabulate(jax.random.key(0), image, compute_flops=True, **settings)
        assert "image_head" in table
        assert "flops" in table


def test_one_image_is_enough_to_initialise(small):
    """Shapes alone: nothing is compiled."""
    one, two = (
        jax.eval_shape(small.model.init, jax.random.key(0), jnp.zeros((count, 46, 46, 3)))
        for count in (1, 2)
    )
    assert one == two


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((42, 42, 3), r"42 x 42 x 3: the batch axis is missing.*image\[None\].*`deblur`"),
        ((42, 42), "shape 42 x 42: the model takes batch x height x width x 3"),
        ((1, 42, 42, 6), r"1 x 42 x 42 x 6: .* x 3 \(1 view\)"),
        ((1, 42, 42, 1), r"1 x 42 x 42 x 1: .* x 3 \(1 view\)"),
        ((1, 42, 43, 3), "42 x 43 pixels: the model takes squares"),
    ],
)
@pytest.mark.parametrize("method", ["__call__", "encode", "features", "pair_outputs"])
def test_images_of_a_wrong_shape_are_refused_with_what_to_do(
    small, without_shape_checks, shape, message, method
):
    images = [np.zeros(shape, np.float32)] * (2 if method == "pair_outputs" else 1)
    settings = {"train": False} if method == "pair_outputs" else {}
    with pytest.raises(UserError, match=message):
        small.model.apply(small.variables, *images, **settings, method=method)


def test_pairs_of_unequal_shapes_are_refused(small, without_shape_checks):
    blurred, sharp = np.zeros((2, 42, 42, 3), np.float32), np.zeros((1, 42, 42, 3), np.float32)
    with pytest.raises(UserError, match="2 x 42 x 42 x 3, sharp images of 1 x 42 x 42 x 3"):
        small.model.apply(small.variables, blurred, sharp, False, method="pair_outputs")


def test_encoders_and_decoder_can_be_applied_alone(small):
    image = _image(small)

    @jax.jit
    def by_parts(variables, image):
        bound = small.model.bind(variables)
        primary = bound.primary_encoder(bound.tokenizer(image))
        features = bound.decoder(primary, bound.contextual_encoder(primary[-1]))
        return bound.image_head(image, features)

    whole = _apply(small.model, small.variables, image)
    np.testing.assert_allclose(by_parts(small.variables, image), whole, atol=1e-5)


def test_what_the_restoration_uses_learns_and_nothing_else(small):
    image = _image(small)

    def loss(params):
        return (small.model.apply({**small.variables, "params": params}, image) ** 2).mean()

    heads = ("sharpness", "sharpness_norm", "projector")
    for path, gradient in _gradients(loss, small):
        unused = "contextual_encoder" in path and any(part in heads for part in path)
        assert np.isfinite(gradient).all(), path
        assert bool(np.any(gradient)) != unused, path


def test_the_training_heads_learn_too(small):
    image, sharp = _image(small), _image(small, seed=2)

    def loss(params):
        variables = {**small.variables, "params": params}
        outputs, _ = _training_outputs(small.model, variables, image, sharp)
        # Batch norm makes sums over the batch constant, so the projections are compared crosswise.
        products = outputs.blurred_projection @ outputs.sharp_projection.T
        return sum((x**2).mean() for x in (*outputs[:5], products))

    for path, gradient in _gradients(loss, small):
        # Batch norm takes away whatever a bias before it adds.
        constant = path[-3:] == ("projector", "hidden", "bias")
        assert np.isfinite(gradient).all(), path
        assert constant or np.any(gradient), path


def _gradients(loss, pretrained):
    gradients = jax.device_get(jax.jit(jax.grad(loss))(pretrained.variables["params"]))
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        yield tuple(entry.key for entry in path), gradient


@pytest.mark.slow
def test_a_directional_derivative_matches_finite_differences(small):
    image = _image(small, batch=1)
    params = small.variables["params"]

    @jax.jit
    def loss(params):
        return small.model.apply({**small.variables, "params": params}, image).sum()

    rng = np.random.default_rng(3)
    direction = jax.tree.map(lambda x: jax.device_put(rng.standard_normal(x.shape)), params)
    products = jax.tree.map(jnp.vdot, jax.jit(jax.grad(loss))(params), direction)

    def moved(step):
        return loss(jax.tree.map(lambda p, d: p + step * d, params, direction))

    difference = (moved(1e-3) - moved(-1e-3)) / 2e-3
    np.testing.assert_allclose(difference, sum(jax.tree.leaves(products)), rtol=2e-2)


def test_bfloat16_computes_near_float32_with_float32_parameters(small):
    image = _image(small)
    half = with_numerics(small.model, dtype="bfloat16")
    restored = _apply(half, small.variables, image)
    assert restored.dtype == jnp.float32
    exact = _apply(small.model, small.variables, image)
    assert 0 < np.abs(restored - exact).mean() < 0.05 * np.std(exact)
    kinds = {leaf.dtype for leaf in jax.tree.leaves(abstract_variables(half))}
    assert kinds == {np.dtype("float32")}


def test_two_equal_views_are_one_view(small):
    image = _image(small)
    two = small_pretrained(views=2).model
    double = _apply(two, small.variables, np.concatenate([image, image], axis=-1))
    np.testing.assert_allclose(double, _apply(small.model, small.variables, image), atol=1e-5)


def test_the_encoders_see_the_mean_of_two_views(small):
    two = small_pretrained(views=2).model
    left, right = _image(small, seed=4), _image(small, seed=5)
    both_orders = [np.concatenate(pair, axis=-1) for pair in ((left, right), (right, left))]
    tokens, of_swapped = (_apply(two, small.variables, x, method="encode") for x in both_orders)
    np.testing.assert_allclose(tokens[-1], of_swapped[-1], atol=1e-4)
    restored, from_swapped = (_apply(two, small.variables, x) for x in both_orders)
    assert np.abs(restored - from_swapped).max() > 0.01


def test_initial_values(small):
    variables = initial_variables(small.model, seed=0)
    params = variables["params"]
    assert not np.any(params["contextual_encoder"]["blur_parameter"])
    assert np.all(params["decoder"]["norm"]["scale"] == 1)
    assert 0.015 < np.std(params["tokenizer"]["class_token"]) < 0.025
    for name, fans in (("qkv", 32 + 96), ("output", 32 + 32)):
        kernel = params["primary_encoder"]["blocks_0"]["attention"][name]["kernel"]
        bound = np.sqrt(6 / fans)
        assert 0.95 * bound < np.abs(kernel).max() <= bound
    bound = np.sqrt(6 / (3 * 64 + 32))
    assert 0.95 * bound < np.abs(params["tokenizer"]["patch_embedding"]["kernel"]).max() <= bound
    same = initial_variables(small.model, seed=0)
    jax.tree.map(np.testing.assert_array_equal, variables, same)
    other = initial_variables(small.model, seed=1)["params"]["tokenizer"]["class_token"]
    assert np.any(other != params["tokenizer"]["class_token"])


def test_the_model_is_a_value():
    one, other = small_pretrained().model, small_pretrained().model
    assert one == other
    assert hash(one) == hash(other)
    assert one != small_pretrained(views=2).model
