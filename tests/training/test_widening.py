"""A wider model that restores as the narrower one does."""

import functools

import jax
import numpy as np
import pytest
from flax import traverse_util

from tests.small_model import small_configuration, small_pretrained
from tests.training.small_run import small_config
from vitdeblur_jax import save_pretrained
from vitdeblur_jax.errors import UserError
from vitdeblur_jax.models import ViTDeblur
from vitdeblur_jax.training.configuration import check_config
from vitdeblur_jax.training.initialization import given_variables, starting_variables

HALF_AS_WIDE_AGAIN = {
    "primary_width": 48,
    "primary_heads": 6,
    "contextual_heads": 3,
    "decoder_width": 72,
    "decoder_heads": 6,
}


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """A small model and a file of it."""
    path = tmp_path_factory.mktemp("narrow") / "narrow.safetensors"
    pretrained = small_pretrained()
    save_pretrained(pretrained, path)
    return pretrained, str(path)


def started_from(path, **changes):
    """Returns the wider model with the variables that a run would begin with."""
    config = small_config(initial__checkpoint=path, initial__widen=True)
    config.model = small_configuration(**changes)
    return ViTDeblur(**config.model), starting_variables(config, given_variables(config))


def test_a_wider_model_restores_as_the_narrower_one(narrow):
    pretrained, path = narrow
    model, variables = started_from(path, **HALF_AS_WIDE_AGAIN)
    image = np.random.default_rng(0).random((2, 46, 46, 3), np.float32)

    @functools.partial(jax.jit, static_argnums=0)
    def tokens_and_image(model, variables):
        primary = model.apply(variables, image, method="encode")
        contextual = model.apply(
            variables, primary[-1], method=lambda model, tokens: model.contextual_encoder(tokens)
        )
        return [*primary, contextual], model.apply(variables, image)

    (*primary, contextual), restored = tokens_and_image(model, variables)
    (*wanted, wanted_contextual), expected = tokens_and_image(
        pretrained.model, pretrained.variables
    )
    for tokens, of_narrow in zip(primary, wanted, strict=True):
        assert tokens.shape[-1] == 48
        np.testing.assert_allclose(tokens[..., :32], of_narrow, atol=1e-4)
        means = np.broadcast_to(of_narrow.mean(-1, keepdims=True), tokens[..., 32:].shape)
        np.testing.assert_allclose(tokens[..., 32:], means, atol=1e-4)
    np.testing.assert_allclose(contextual[..., :32], wanted_contextual, atol=1e-4)
    assert np.std(restored - expected) < 0.02 * np.std(expected)  # the fusions' norms


@pytest.mark.slow
def test_all_that_a_wider_model_writes_to_its_tokens_has_a_gradient(narrow):
    model, variables = started_from(narrow[1], **HALF_AS_WIDE_AGAIN)
    image = np.random.default_rng(0).random((2, 46, 46, 3), np.float32)

    def size(params):
        return (model.apply({**variables, "params": params}, image) ** 2).mean()

    gradients = traverse_util.flatten_dict(jax.jit(jax.grad(size))(variables["params"]))
    writing = {
        path: np.asarray(leaf)
        for path, leaf in gradients.items()
        if {"patch_embedding", "class_token", "output", "contract"} & set(path)
        or path[-2].startswith("fusions")
    }
    del writing["contextual_encoder", "projector", "output", "kernel"]  # of the losses alone
    assert len(writing) == 2 + 1 + 5 * 4 + 2 * 4
    for path, gradient in writing.items():
        assert np.all(gradient != 0), path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"primary_width": 16}, "is wider than the model: its primary_width is 32, the model's 16"),
        ({**HALF_AS_WIDE_AGAIN, "decoder_width": 48}, "its decoder_width is 48; .* should be 72"),
        ({**HALF_AS_WIDE_AGAIN, "primary_heads": 4}, "its primary_heads is 4; .* should be 6"),
        ({**HALF_AS_WIDE_AGAIN, "decoder_depth": 1}, "its decoder_depth is 2; .* should be 2"),
    ],
)
def test_what_is_not_the_same_model_but_wider_is_told(narrow, changes, message):
    with pytest.raises(UserError, match=message):
        started_from(narrow[1], **changes)


def test_to_widen_needs_a_checkpoint():
    with pytest.raises(UserError, match=r"initial\.widen needs the narrower model's checkpoint"):
        check_config(small_config(initial__widen=True))
