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
)
from tests.stand_in_weights import stand_in_state_dict
from vitdeblur_jax.models.drbnet import CONFIGURATIONS, DRBNet, published_entries
from vitdeblur_jax.models.published import from_published
from vitdeblur_jax.utils.errors import UserError

DATA = PEERS / "drbnet"
PAIRS = ((4, 4),) * 4
SMALL = {
    "widths": (4, 4, 4, 4),
    "image_widths": PAIRS,
    "filter_widths": PAIRS,
    "residual_widths": PAIRS,
}
TOLERANCE = 1e-4  # of golden outputs and stages, in [-1, 1]


def stand_in(network):
    def transposed_kernel(name, noise):
        return noise / np.sqrt(4 * len(noise)) if name.endswith("_u.0.weight") else None

    state_dict = stand_in_state_dict(published_shapes(network), 0, transposed_kernel)
    return from_published(state_dict, published_entries(network))


def published_shapes(network):
    return DATA / ("shapes.json" if network.views == 1 else "shapes_dual.json")


@pytest.fixture(scope="module")
def single():
    return dict(np.load(DATA / "golden_seed0.npz"))


@pytest.mark.slow
def test_golden_stages(single, optimized):
    network = DRBNet()
    output, stages = stages_of(network, stand_in(network), golden_image(single, "image_rgb"))
    np.testing.assert_allclose(2 * output - 1, single["output_rgb"], rtol=0, atol=TOLERANCE)
    names = {
        "conv1_1": "encoder_1/conv_0",
        "conv1_3": "encoder_1",
        "conv4_4": "bottleneck_3",
        "upconv3_u": "upsample_4",
        "upconv3_2": "decoder_4_1",
        "upconv1_2": "decoder_1_1",
        "upconv0_res": "dynamic_1/residual",
    }
    before = golden_image(single, "image_rgb")[0].reshape(16, 8, 20, 8, 3).mean((1, 3)) * 2 - 1
    for scale in (8, 4, 2, 1):
        block, estimate = f"dynamic_{scale}", stages[f"dynamic_{scale}"]
        names[f"d{scale}_imgfeature"] = f"{block}/image_features"
        names[f"d{scale}_res"] = f"{block}/residual"
        names[f"d{scale}_est"] = block
        if scale == 8:
            filters = stages[f"{block}/filters"].transpose(2, 0, 1)
            np.testing.assert_allclose(
                filters[:, :8, :8], single["stage_d8_kernel_first"], rtol=0, atol=TOLERANCE
            )
        else:
            names[f"d{scale}_kernel"] = f"{block}/filters"
        assert_stage(single, f"d{scale}_in", before, TOLERANCE)
        filtered = estimate - before - stages[f"{block}/residual"]
        assert_stage(single, f"d{scale}_fac", filtered, TOLERANCE)
        before = estimate.repeat(2, axis=0).repeat(2, axis=1)
    for name, path in names.items():
        assert_stage(single, name, stages[path], TOLERANCE)


@pytest.mark.slow
def test_golden_gradients(single, optimized):
    network = DRBNet()
    variables, entries = stand_in(network), published_entries(network)
    assert_gradient_norms(
        single, network, variables, entries, 2e-4, in_golden_range=lambda output: 2 * output - 1
    )


@pytest.mark.slow
def test_golden_crop(single, optimized):
    network = DRBNet()
    image = golden_image(single, "image_rgb")[:, :104, :120]
    output = 2 * jax.jit(network.apply)(stand_in(network), image)[0] - 1
    corners = np.asarray(output).transpose(2, 0, 1)
    expected = (single[f"stage_output_104x120_{part}"] for part in ("first", "last"))
    for ours, theirs in zip((corners[:, :36, :36], corners[:, -36:, -36:]), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.slow
def test_golden_dual_pixel(optimized):
    golden = dict(np.load(DATA / "golden_dual_seed0.npz"))
    network = DRBNet(views=3)
    image = golden_image(golden, "image_left_rgb", "image_right_rgb", "image_rgb")
    output, stages = stages_of(network, stand_in(network), image)
    np.testing.assert_allclose(2 * output - 1, golden["output_rgb"], rtol=0, atol=TOLERANCE)
    assert_stage(golden, "conv1_1", stages["encoder_1/conv_0"], TOLERANCE)
    assert_stage(golden, "conv4_4", stages["bottleneck_3"], TOLERANCE)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_published_names_and_shapes(name):
    network = DRBNet(**CONFIGURATIONS[name])
    shapes = entry_shapes(published_shapes(network))
    assert_converts_exactly(network, published_entries(network), shapes)
    count = {1: 11_689_616, 2: 11_690_480}[network.views]
    assert sum(np.prod(shape) for shape in shapes.values()) == count


def test_the_published_kernel_takes_the_right_view_first():
    network = DRBNet(views=2)
    state_dict = dict.fromkeys(entry_shapes(DATA / "shapes_dual.json"), np.zeros((1, 6, 1, 1)))
    state_dict["conv1_1.0.weight"] = np.arange(6.0).reshape(1, 6, 1, 1)
    entries = {path: e for path, e in published_entries(network).items() if path[-1] == "kernel"}
    kernel = from_published(state_dict, entries)["params"]["encoder_1"]["conv_0"]["conv"]["kernel"]
    np.testing.assert_array_equal(kernel.ravel(), [3, 4, 5, 0, 1, 2])


def test_estimates_start_from_block_means_and_repeat_pixels():
    network = DRBNet(views=2, **SMALL)
    image = np.random.default_rng(0).random((1, 16, 24, 6), np.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), image)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    means = ((image[..., :3] + image[..., 3:]) / 2).reshape(1, 2, 8, 3, 8, 3).mean((2, 4))
    expected = np.kron(means, np.ones((1, 8, 8, 1)))
    np.testing.assert_allclose(jax.jit(network.apply)(zeros, image), expected, atol=1e-6)


def test_sides_are_multiples_of_8():
    with pytest.raises(UserError, match="multiples of 8"):
        jax.eval_shape(DRBNet(**SMALL).init, jax.random.key(0), jnp.zeros((1, 16, 12, 3)))


@pytest.mark.slow
@pytest.mark.parametrize("corner", [0, -1])
def test_tiles_equal_the_whole_image(corner, optimized):
    network = DRBNet(**SMALL)
    shape, half = (1, 480, 480, 3), network.tiling.halo // 2
    variables = one_sided_variables(network, shape, corner)
    assert_tiles_are_exact(network, variables, shape, 160, atol=1e-5, too_small=half, visible=1e-4)
