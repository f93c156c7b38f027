import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from tests.published_networks import (
    PEERS,
    assert_converts_exactly,
    assert_gradient_norms,
    assert_stage,
    assert_tiles_are_exact,
    entry_shapes,
    furthest_column,
    golden_image,
    one_sided_variables,
    random_variables,
    stages_of,
)
from tests.stand_in_weights import stand_in_state_dict
from vitdeblur_jax.models.ifanet import (
    IFANet,
    ResidualBlocks,
    published_entries,
)
from vitdeblur_jax.models.layers.iterative_filters import IterativeFilters
from vitdeblur_jax.models.published import from_published
from vitdeblur_jax.utils.errors import UserError

FOLDER = PEERS / "ifanet"
SMALL = {"widths": (4, 4, 4, 4), "iterations": 2}
TOLERANCE = 1e-3  # of golden outputs and stages
STAGES = {
    "conv1": "encoder_1",
    "conv2": "encoder_2",
    "conv3": "encoder_4",
    "conv4": "encoder_8",
    "kconv4": "filter_encoder_8",
    "dme": "disparity",
    "conv_dme": "disparity_features",
    "conv4_4": "joined",
    "conv_res": "deblurred",
    "upconv3_u": "upsample_4",
    "upconv3": "decoder_4_1",
    "upconv2": "decoder_2_1",
    "upconv1": "decoder_1_1",
    "out_res": "residual",
}


def shapes_of(network):
    return FOLDER / ("shapes.json" if network.views == 1 else "shapes_dual.json")


def stand_in(network):
    def special(name, noise):
        if "_u." in name and noise.ndim > 1:
            return 1.2 * noise / np.sqrt(4 * len(noise))
        return 0.15 * noise / np.sqrt(128) if name == "F.3.weight" else None

    state_dict = stand_in_state_dict(shapes_of(network), 0, special, gain=1.2)
    return from_published(state_dict, published_entries(network))


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(FOLDER / "golden_seed0.npz"))


def leaky(x):
    return np.where(x > 0, x, 0.1 * x)


def filtered_as_defined(x, predicted, iterations):
    """Returns the result, and what each iteration filters before its bias; loops over taps."""
    height, width, channels = x.shape
    taps, size = 3, 2 * 3 * channels
    rows = np.arange(height)[:, None] + np.arange(-1, 2)
    columns = np.arange(width)[:, None] + np.arange(-1, 2)
    rows, columns = rows.clip(0, height - 1), columns.clip(0, width - 1)
    before_bias = []
    for i in range(iterations):
        first = predicted[..., i * size : i * size + taps * channels]
        kernel = first.reshape(height, width, channels, taps)
        at = iterations * size + i * channels
        x = np.einsum("hwct,htwc->hwc", kernel, x[rows])
        x = np.einsum("hwct,hwtc->hwc", kernel, x[:, columns])
        before_bias.append(x)
        x = leaky(x + predicted[..., at : at + channels])
    return x, before_bias


@pytest.mark.slow
def test_golden_stages(golden, optimized):
    network, variables = IFANet(), stand_in(IFANet())
    output, stages = stages_of(network, variables, golden_image(golden, "image_rgb"))
    for stage, path in STAGES.items():
        assert_stage(golden, stage, stages[path], TOLERANCE)
    layer = variables["params"]["filters"]
    predicted = stages["filter_features"] @ layer["kernel"] + layer["bias"]
    assert_stage(golden, "filters", predicted, TOLERANCE)
    filtered, before_bias = filtered_as_defined(stages["encoder_8"], predicted, 17)
    for i in (0, 8, 16):
        assert_stage(golden, f"iac_sac{i}", before_bias[i], TOLERANCE)
    np.testing.assert_allclose(stages["filters"], filtered, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(output, golden["output_rgb"], rtol=0, atol=TOLERANCE)


@pytest.mark.slow
def test_golden_crop(golden, optimized):
    network = IFANet()
    image = golden_image(golden, "image2_rgb")[:, :96, :120]
    output = jax.jit(network.apply)(stand_in(network), image)[0]
    np.testing.assert_allclose(output, golden["output2_rgb"], rtol=0, atol=TOLERANCE)


@pytest.mark.slow
def test_golden_dual_pixel(optimized):
    golden = dict(np.load(FOLDER / "golden_dual_seed0.npz"))
    network = IFANet(views=3)
    image = golden_image(golden, "image_l_rgb", "image_r_rgb", "image_c_rgb")
    output, stages = stages_of(network, stand_in(network), image)
    for stage in ("conv1", "kconv4", "dme", "conv_res", "upconv1", "out_res"):
        assert_stage(golden, stage, stages[STAGES[stage]], TOLERANCE)
    np.testing.assert_allclose(output, golden["output_rgb"], rtol=0, atol=TOLERANCE)


@pytest.mark.slow
def test_golden_gradients(golden, optimized):
    network = IFANet()
    entries = published_entries(network)
    assert_gradient_norms(golden, network, stand_in(network), entries, 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 16, 1248, 3), (1, 1248, 16, 3)])
def test_tiles_equal_the_whole_image(shape, optimized):
    network = IFANet(**SMALL)
    variables = random_variables(network, shape)
    assert_tiles_are_exact(network, variables, shape, 416, atol=1e-5, too_small=8, visible=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("corner", [0, -1])
def test_the_halo_is_as_wide_as_the_receptive_field(corner):
    network = IFANet(widths=(2, 2, 2, 2), iterations=2)
    variables = one_sided_variables(network, (1, 16, 16, 3), corner)
    furthest = furthest_column(network, variables, corner, range(448, 456))
    assert network.tiling.halo - 16 < furthest <= network.tiling.halo


def test_published_names_and_shapes():
    network = IFANet()
    shapes = entry_shapes(shapes_of(network))
    assert_converts_exactly(network, published_entries(network), shapes)
    assert sum(np.prod(shape) for shape in shapes.values()) == 10_476_996


@pytest.mark.parametrize(
    ("encoder", "expected"), [("encoder_1", "012345"), ("filter_encoder_1", "345012")]
)
def test_only_the_filters_see_views_and_the_right_one_first(encoder, expected):
    entries = published_entries(IFANet(views=2))
    layout = entries["params", encoder, "conv_0", "conv", "kernel"].layout
    kernel = layout.to_flax(np.arange(6).reshape(1, 6, 1, 1))
    assert "".join(map(str, kernel.ravel())) == expected


def test_filters_are_applied_as_defined():
    rng = np.random.default_rng(0)
    x, features = rng.standard_normal((5, 6, 3)), rng.standard_normal((5, 6, 2))
    kernel, bias = rng.standard_normal((2, 2 * 3 * 7)), rng.standard_normal(2 * 3 * 7)
    params = {"kernel": jax.device_put(kernel), "bias": jax.device_put(bias)}
    module = IterativeFilters(2, "float32", "highest")
    images = jax.device_put(x[None]), jax.device_put(features[None])
    found = jax.jit(module.apply)({"params": params}, *images)[0]
    expected, _ = filtered_as_defined(x, features @ kernel + bias, 2)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("number", "expected"), [(1, [2, -0.2]), (2, [4, -2.02])])
def test_several_residual_blocks_are_added_to_their_input(number, expected):
    module = ResidualBlocks(number, "float32", "highest", jax.nn.initializers.zeros)
    x = jnp.array([2.0, -2.0]).reshape(1, 1, 1, 2)
    output, _ = module.init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(output.ravel(), expected, rtol=1e-6)


def test_sides_are_multiples_of_8():
    with pytest.raises(UserError, match="multiples of 8"):
        jax.eval_shape(IFANet(**SMALL).init, jax.random.key(0), jnp.zeros((1, 16, 12, 3)))


def test_the_disparity_loss_compares_the_warped_right_view_with_the_left():
    network, rng = IFANet(**SMALL, views=2), np.random.default_rng(0)
    blurred = jax.device_put(rng.random((2, 16, 48, 6)))
    variables = random_variables(network)
    call = functools.partial(network.apply, method="training_outputs", capture_intermediates=True)
    (restored, terms), state = jax.jit(call, static_argnums=(3, 4))(
        variables, blurred, blurred[..., :3], True, frozenset({"disparity"})
    )
    shift = np.asarray(state["intermediates"]["disparity"]["__call__"][0][..., 0])
    assert np.abs(shift).max() > 0.1
    means = np.asarray(blurred).reshape(2, 2, 8, 6, 8, 6).mean((2, 4))
    rows, columns = np.mgrid[:2, :6]
    for n in range(2):
        squares = []
        for channel in range(3):
            places, settings = [rows, columns + shift[n]], {"order": 1, "mode": "grid-constant"}
            warped = map_coordinates(means[n, ..., 3 + channel], places, **settings)
            squares.append((warped - means[n, ..., channel]) ** 2)
        np.testing.assert_allclose(np.asarray(terms["disparity"])[n], np.mean(squares), rtol=1e-4)
    np.testing.assert_array_equal(restored, jax.jit(network.apply)(variables, blurred))
    assert IFANet().LOSS_TERMS == {}
