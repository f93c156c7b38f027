import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import ModifyScopeVariableError
from scipy.ndimage import correlate

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
from tests.stand_in_weights import noise_of
from vitdeblur_jax.models.aifnet import (
    AIFNet,
    EdgeConvs,
    NormConv,
    ZeroConv,
    defocus_stack,
    published_entries,
    published_unused,
)
from vitdeblur_jax.models.published import from_published
from vitdeblur_jax.utils.errors import UserError

FOLDER = PEERS / "aifnet"
SMALL = {
    "encoder_widths": (2, 2, 2, 2, 2),
    "decoder_widths": (2, 2, 2, 2),
    "levels": 3,
    "deblurring_widths": (2, 2, 2, 2),
}
TOLERANCE = 5e-4  # of golden stages
GAINS = {"defocus_net/encoder/conv1_1/kernel:0": 0.02, "defocus_net/decoder/uf/c3/kernel:0": 0.1}
STAGES = {f"vgg{i + 1}": f"encoder_{i}" for i in range(5)} | {
    "u0_init": "decoder/level_0_0",
    "refine1": "decoder/refinement_0",
    "refine7": "decoder/refinement_6",
    "defocus_logit": "decoder/logits",
    "db_n0_1": "unet/encoder_0_0",
    "db_n0_2": "unet/down_0",
    "db_n2_3": "unet/down_2",
    "db_n3_3": "unet/bottleneck_2",
    "db_n4_3": "unet/decoder_2_1",
    "db_n5_2": "unet/decoder_1_0",
    "db_n6_2": "unet/decoder_0_0",
    "db_logit": "unet/logits",
}


def stand_in_value(name, shape):
    noise = noise_of(name, shape, 0)
    match name.rsplit("/", 1)[-1]:
        case "moving_mean:0":
            value = 0.1 * noise
        case "moving_variance:0":
            value = 1 + 0.1 * np.abs(noise)
        case "beta:0" | "bias:0":
            value = 0.02 * noise
        case _:
            value = GAINS.get(name, 1.4) * noise / np.sqrt(np.prod(shape[:3]))
    return value.astype(np.float32)


@pytest.fixture(scope="module")
def variables():
    shapes = entry_shapes(FOLDER / "shapes.json")
    state_dict = {name: stand_in_value(name, shape) for name, shape in shapes.items()}
    return from_published(state_dict, published_entries(AIFNet()))


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(FOLDER / "golden_seed0.npz"))


@pytest.mark.slow
def test_golden_stages(golden, variables, optimized):
    output, stages = stages_of(AIFNet(), variables, golden_image(golden, "image_rgb"))
    for stage, path in STAGES.items():
        assert_stage(golden, stage, stages[path], TOLERANCE)
    defocus = 1 / (1 + np.exp(-stages["decoder/logits"].astype(np.float64)))
    assert_stage(golden, "defocus_map", defocus, 1e-5)
    np.testing.assert_allclose(output, golden["output_rgb"], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_golden_crop(golden, variables, optimized):
    image = golden_image(golden, "image2_rgb")[:, :96, :112]
    output = jax.jit(AIFNet().apply)(variables, image)[0]
    np.testing.assert_allclose(output, golden["output2_rgb"], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_golden_gradients(golden, variables, optimized):
    assert_gradient_norms(golden, AIFNet(), variables, published_entries(AIFNet()), 2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 16, 960, 3), (1, 960, 16, 3)])
def test_tiles_equal_the_whole_image(shape, optimized):
    network = AIFNet(**SMALL)
    variables = random_variables(network, shape)
    assert_tiles_are_exact(network, variables, shape, 320, atol=1e-5, too_small=16, visible=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("corner", [0, -1])
def test_the_halo_is_as_wide_as_the_receptive_field(corner):
    network = AIFNet(**SMALL)
    variables = one_sided_variables(network, (1, 16, 16, 3), corner)
    variables["params"]["encoder_0"]["conv_0"]["kernel"] /= 255  # sigmoids don't saturate
    furthest = furthest_column(network, variables, corner, range(336, 352))
    assert network.tiling.halo - 24 < furthest <= network.tiling.halo


def test_published_names_and_shapes():
    network, shapes = AIFNet(), entry_shapes(FOLDER / "shapes.json")
    assert sum(np.prod(shape) for shape in shapes.values()) == 41_564_088
    for name, array in published_unused(network).items():
        assert shapes.pop(name) == array.shape
    assert_converts_exactly(network, published_entries(network), shapes)


def test_only_the_encoder_takes_bgr():
    entries = published_entries(AIFNet())
    first = entries["params", "encoder_0", "conv_0", "kernel"].layout
    np.testing.assert_array_equal(
        first.to_flax(np.arange(3).reshape(1, 1, 3, 1)).ravel(), [2, 1, 0]
    )
    second = entries["params", "unet", "encoder_0_0", "conv", "kernel"].layout
    np.testing.assert_array_equal(second.to_flax(np.arange(3)), [0, 1, 2])


def test_the_stack_weights_the_image_by_nearness_to_levels_of_defocus():
    rng = np.random.default_rng(0)
    image, defocus = rng.random((1, 2, 3, 3)), rng.random((1, 2, 3, 1))
    stack = defocus_stack(jax.device_put(image), jax.device_put(defocus), 29)
    for k in range(29):
        expected = image * (1 - np.abs(defocus - k / 28))
        np.testing.assert_allclose(stack[..., 3 * k : 3 * k + 3], expected, atol=1e-6)


@pytest.fixture(scope="module")
def kernel():
    return np.random.default_rng(0).standard_normal((3, 3)).astype(np.float32)


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
def test_zero_convolution_is_aligned_as_in_tensorflow(kernel, stride, dilation):
    x = np.random.default_rng(1).standard_normal((6, 8)).astype(np.float32)
    params = {"kernel": kernel[..., None, None], "bias": np.ones(1, np.float32)}
    module = ZeroConv("float32", "highest", 1, stride, dilation)
    found = module.apply({"params": {"conv": params}}, jax.device_put(x[None, ..., None]))
    padded, first = np.pad(x, 2), 2 + (stride - 1)  # of the padded image: the first pixel's center
    expected = np.ones((6 // stride, 8 // stride))
    for y, x in np.ndindex(expected.shape):
        for a, b in np.ndindex(3, 3):
            row = first + stride * y + dilation * (a - 1)
            column = first + stride * x + dilation * (b - 1)
            expected[y, x] += kernel[a, b] * padded[row, column]
    expected = np.where(expected > 0, expected, 0.2 * expected)
    np.testing.assert_allclose(found[0, ..., 0], expected, atol=1e-5)


def test_edge_convolution_repeats_border_pixels(kernel):
    x = np.random.default_rng(1).standard_normal((6, 8)).astype(np.float32)
    params = {"kernel": kernel[..., None, None], "bias": np.zeros(1, np.float32)}
    module = EdgeConvs("float32", "highest", 1, 1)
    found = module.apply({"params": {"conv_0": params}}, jax.device_put(x[None, ..., None]))
    expected = np.maximum(correlate(x, kernel, mode="reflect"), 0)  # SciPy's word for symmetric
    np.testing.assert_allclose(found[0, ..., 0], expected, atol=1e-5)


def test_training_normalizes_by_the_batch_and_updates_the_running_statistics():
    x = 3 + np.random.default_rng(0).standard_normal((2, 4, 4, 1)).astype(np.float32)
    conv = {"kernel": np.ones((1, 1, 1, 1), np.float32), "bias": np.zeros(1, np.float32)}
    params = {"conv": conv, "norm": {"bias": np.full(1, 0.5, np.float32)}}
    running = {"norm": {"mean": np.ones(1, np.float32), "var": np.ones(1, np.float32)}}
    module = NormConv("float32", "highest", 1, 1)
    variables = {"params": params, "batch_stats": running}
    found, updates = module.apply(variables, jax.device_put(x), True, mutable="batch_stats")
    expected = (x - x.mean()) / np.sqrt(x.var() + 1e-5) + 0.5
    np.testing.assert_allclose(found, np.where(expected > 0, expected, 0.2 * expected), atol=1e-5)
    updated = updates["batch_stats"]["norm"]
    np.testing.assert_allclose(updated["mean"], 0.9 + 0.1 * x.mean(), rtol=1e-5)
    np.testing.assert_allclose(updated["var"], 0.9 + 0.1 * x.var(), rtol=1e-5)


def test_only_training_updates_the_running_statistics():
    network, image = AIFNet(**SMALL), jnp.zeros((1, 16, 16, 3))
    variables = random_variables(network)
    with pytest.raises(ModifyScopeVariableError):
        jax.eval_shape(lambda: network.apply(variables, image, train=True))


def test_sides_are_multiples_of_16():
    with pytest.raises(UserError, match="multiples of 16"):
        jax.eval_shape(AIFNet(**SMALL).init, jax.random.key(0), jnp.zeros((1, 16, 24, 3)))
