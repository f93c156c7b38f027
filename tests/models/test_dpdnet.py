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
    stages_of,
    stand_in_from_rules,
)
from vitdeblur_jax.models.dpdnet import CONFIGURATIONS, DPDNet, published_entries
from vitdeblur_jax.models.published import from_published
from vitdeblur_jax.utils.errors import UserError

DATA = PEERS / "dpdnet"
SMALL = {"widths": (4, 4, 4, 4, 4)}
FILES = {
    1: ("golden_seed0.npz", "shapes.json", ("rgb",)),
    2: ("golden_dual_seed0.npz", "shapes_dual.json", ("left_rgb", "right_rgb")),
}
STAGES = {
    "enc1": "encoder_1_1",
    "enc2": "encoder_2_1",
    "enc3": "encoder_4_1",
    "enc4": "encoder_8_1",
    "bottleneck": "bottleneck_1",
    "up6": "upsample_8",
    "dec6": "decoder_8_1",
    "dec7": "decoder_4_1",
    "dec8": "decoder_2_1",
    "up9": "upsample_1",
    "dec9": "decoder_1_1",
    "relu3": "to_rgb",
}


def published_shapes(network):
    return DATA / FILES[network.views][1]


@pytest.fixture(scope="module", params=FILES)
def published(request, optimized):
    """The network with stand-in weights, and its golden file."""
    network = DPDNet(views=request.param)
    state_dict = stand_in_from_rules(published_shapes(network), 0)
    variables = jax.device_put(from_published(state_dict, published_entries(network)))
    return network, variables, dict(np.load(DATA / FILES[network.views][0]))


def image_of(golden, views, prefix="image"):
    return golden_image(golden, *(f"{prefix}_{name}" for name in FILES[views][2]))


@pytest.mark.slow
def test_golden_stages(published):
    network, variables, golden = published
    output, stages = stages_of(network, variables, image_of(golden, network.views))
    np.testing.assert_allclose(output, golden["output_rgb"], rtol=0, atol=1e-5)
    assert_stage(golden, "out_bgr", output[..., ::-1], 1e-5)
    for name, path in STAGES.items():
        assert_stage(golden, name, stages[path], 3e-5)


@pytest.mark.slow
def test_golden_second_image(published):
    network, variables, golden = published
    output = jax.jit(network.apply)(variables, image_of(golden, network.views, "image2"))
    np.testing.assert_allclose(output[0], golden["output2_rgb"], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_golden_gradients(published):
    network, variables, golden = published
    image, entries = image_of(golden, network.views), published_entries(network)

    assert_gradient_norms(golden, network, variables, entries, 1e-3, image)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_published_names_and_shapes(name):
    network = DPDNet(**CONFIGURATIONS[name])
    shapes = entry_shapes(published_shapes(network))
    assert_converts_exactly(network, published_entries(network), shapes)
    count = {1: 31_033_423, 2: 31_035_151}[network.views]
    assert sum(np.prod(shape) for shape in shapes.values()) == count


def test_each_published_view_and_the_output_are_bgr():
    network = DPDNet(views=2)
    state_dict = dict.fromkeys(entry_shapes(DATA / "shapes_dual.json"), np.zeros((1, 1, 6, 3)))
    state_dict["conv2d_1/kernel:0"] = np.arange(6.0).reshape(1, 1, 6, 1)
    state_dict["conv2d_24/kernel:0"] = np.arange(9.0).reshape(1, 1, 3, 3)
    state_dict["conv2d_24/bias:0"] = np.arange(3.0)
    params = from_published(state_dict, published_entries(network))["params"]
    kernel = params["encoder_1_0"]["conv"]["kernel"]
    np.testing.assert_array_equal(kernel.ravel(), [2, 1, 0, 5, 4, 3])
    np.testing.assert_array_equal(params["output"]["kernel"][0, 0, 1], [5, 4, 3])
    np.testing.assert_array_equal(params["output"]["bias"], [2, 1, 0])


def test_training_drops_values_at_the_two_coarsest_levels():
    network = DPDNet(widths=(1, 1, 1, 256, 256))
    image = np.random.default_rng(0).random((1, 32, 32, 3), np.float32)
    variables = one_sided_variables(network, image.shape, 0)
    run = jax.jit(
        lambda rng: network.apply(
            variables, image, train=True, rngs={"dropout": rng}, capture_intermediates=True
        )
    )
    stages = run(jax.random.key(0))[1]["intermediates"]
    for scale, before in ((8, "encoder_8_1"), (16, "bottleneck_1")):
        before, after = (stages[name]["__call__"][0] for name in (before, f"dropout_{scale}"))
        kept = after != 0
        np.testing.assert_allclose(after[kept], before[kept] / 0.6, rtol=1e-5)
        assert kept[before > 0].mean() == pytest.approx(0.6, abs=0.05)


def test_sides_are_multiples_of_16():
    with pytest.raises(UserError, match="multiples of 16"):
        jax.eval_shape(DPDNet(**SMALL).init, jax.random.key(0), jnp.zeros((1, 16, 24, 3)))


@pytest.mark.slow
@pytest.mark.parametrize("corner", [0, -1])
def test_tiles_equal_the_whole_image(corner, optimized):
    network = DPDNet(**SMALL)
    shape = (1, 384, 384, 3)
    variables = one_sided_variables(network, shape, corner)
    assert_tiles_are_exact(network, variables, shape, 128, atol=1e-6, too_small=48, visible=1e-5)
