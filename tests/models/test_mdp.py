import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.published_networks import (
    PEERS,
    assert_converts_exactly,
    assert_gradient_norms,
    assert_stage,
    assert_tiles_are_exact,
    entry_shapes,
    golden_image,
    one_sided_variables,
    random_variables,
    stages_of,
    stand_in_from_rules,
)
from vitdeblur_jax.models.mdp import MDP, published_entries
from vitdeblur_jax.models.published import from_published
from vitdeblur_jax.utils.errors import UserError

DATA = PEERS / "mdp"
SMALL = {"widths": (4, 4, 4, 4, 4)}
STAGES = {
    "enc1": "encoder/encoder_1_1",
    "enc2": "encoder/encoder_2_1",
    "enc3": "encoder/encoder_4_1",
    "enc4": "encoder/encoder_8",
    "left_bottleneck": "early_left/bottleneck",
    "left_up8": "early_left/upsample_2",
    "right_up13": "early_right/upsample_2",
    "deb_bottleneck": "early_sharp/bottleneck",
    "deb_up16": "early_sharp/upsample_8",
    "deb_dec16": "early_sharp/decoder_8",
    "deb_dec17": "early_sharp/decoder_4_1",
    "deb_up18": "early_sharp/upsample_2",
    "deb_dec18": "late_sharp/decoder_2_1",
    "deb_up19": "late_sharp/upsample_1",
    "deb_dec19": "late_sharp/decoder_1_1",
    "deb_relu3": "late_sharp/to_rgb",
}


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(DATA / "golden_seed0.npz"))


@pytest.fixture(scope="module")
def variables(optimized):
    state_dict = stand_in_from_rules(DATA / "shapes.json", 0)
    return jax.device_put(from_published(state_dict, published_entries(MDP())))


@pytest.mark.slow
def test_golden_stages(golden, variables):
    output, stages = stages_of(MDP(), variables, golden_image(golden, "image_rgb"))
    np.testing.assert_allclose(output, golden["output_rgb"], rtol=0, atol=1e-5)
    for name, path in STAGES.items():
        assert_stage(golden, name, stages[path], 3e-5)


@pytest.mark.slow
def test_golden_views(golden, variables):
    run = jax.jit(lambda v, x: MDP().apply(v, x, method="left_right_sharp"))
    outputs = run(variables, golden_image(golden, "image_rgb"))[0]
    for i, name in enumerate(("left", "right", "deblurred")):
        bgr = outputs[..., 3 * i : 3 * i + 3][..., ::-1]
        assert_stage(golden, f"out_{name}_bgr", bgr, 1e-5)


@pytest.mark.slow
def test_golden_second_image(golden, variables):
    padded = np.pad(golden_image(golden, "image2_rgb"), ((0, 0), (11, 0), (5, 0), (0, 0)))
    output = jax.jit(MDP().apply)(variables, padded)[0, 11:, 5:]
    np.testing.assert_allclose(output, golden["output2_rgb"], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_golden_gradients(golden, variables):
    assert_gradient_norms(golden, MDP(), variables, published_entries(MDP()), 1e-3)


def test_published_names_and_shapes():
    shapes = entry_shapes(DATA / "shapes.json")
    assert_converts_exactly(MDP(), published_entries(MDP()), shapes)
    assert sum(np.prod(shape) for shape in shapes.values()) == 46_860_397


def test_published_images_are_bgr():
    state_dict = dict.fromkeys(entry_shapes(DATA / "shapes.json"), np.zeros((1, 1, 3, 3)))
    for layer in ("conv2d", "conv2d_34", "conv2d_41", "conv2d_48"):
        state_dict[f"{layer}/kernel:0"] = np.arange(9.0).reshape(1, 1, 3, 3)
        state_dict[f"{layer}/bias:0"] = np.arange(3.0)
    params = from_published(state_dict, published_entries(MDP()))["params"]
    first = params["encoder"]["encoder_1_0"]["conv"]
    np.testing.assert_array_equal(first["kernel"][0, 0, :, 1], [7, 4, 1])
    for image in ("left", "right", "sharp"):
        last = params[f"late_{image}"]["output"]
        np.testing.assert_array_equal(last["kernel"][0, 0, 1], [5, 4, 3])
        np.testing.assert_array_equal(last["bias"], [2, 1, 0])


@pytest.fixture(scope="module")
def small():
    """The small network on two views, its variables, an image and a sharp image."""
    network, rng = MDP(views=2, **SMALL), np.random.default_rng(0)
    blurred, sharp = rng.random((2, 16, 32, 6), np.float32), np.zeros((2, 16, 32, 3), np.float32)
    return network, random_variables(network), blurred, sharp


def test_loss_terms(small):
    network, variables, blurred, sharp = small

    @jax.jit
    def run(variables, blurred):
        args = (blurred, sharp, True, frozenset(network.LOSS_TERMS))
        outputs = network.apply(variables, blurred, method="left_right_sharp")
        return network.apply(variables, *args, method="training_outputs"), outputs

    (restored, terms), outputs = run(variables, blurred)
    left, right, third = np.split(np.asarray(outputs, np.float64), 3, axis=-1)
    true_left, true_right = np.split(blurred.astype(np.float64), 2, axis=-1)
    expected = {
        "views": ((left - true_left) ** 2 + (right - true_right) ** 2) / 2,
        "mean_of_views": ((left + right - true_left - true_right) / 2) ** 2,
        "view_difference": (left - right - true_left + true_right) ** 2,
    }
    assert terms.keys() == expected.keys()
    for name, squares in expected.items():
        np.testing.assert_allclose(terms[name], squares.mean((1, 2, 3)), rtol=1e-5)
    np.testing.assert_array_equal(restored, third)


def test_terms_of_views_need_views():
    assert MDP().LOSS_TERMS.keys() == {"mean_of_views"}


def test_only_the_views_terms_reach_their_late_decoders(small):
    network, variables, blurred, sharp = small

    @functools.partial(jax.jit, static_argnums=1)
    def gradients(params, terms):
        def loss(params):
            args = ({**variables, "params": params}, blurred, sharp, True, terms)
            restored, found = network.apply(*args, method="training_outputs")
            return (restored**2).mean() + sum(term.mean() for term in found.values())

        return jax.grad(loss)(params)

    for terms in (frozenset(), frozenset(["mean_of_views"])):
        parts = gradients(variables["params"], terms).items()
        without = {(name,) for name, part in parts if not any(map(np.any, jax.tree.leaves(part)))}
        assert without == set(network.params_without_gradient(terms))


def test_sides_are_multiples_of_16():
    with pytest.raises(UserError, match="multiples of 16"):
        jax.eval_shape(MDP(**SMALL).init, jax.random.key(0), jnp.zeros((1, 16, 24, 3)))


@pytest.mark.slow
@pytest.mark.parametrize("corner", [0, -1])
def test_tiles_equal_the_whole_image(corner, optimized):
    network = MDP(**SMALL)
    shape, half = (1, 336, 336, 3), network.tiling.halo // 2
    variables = one_sided_variables(network, shape, corner)
    assert_tiles_are_exact(network, variables, shape, 112, atol=1e-6, too_small=half, visible=1e-5)
