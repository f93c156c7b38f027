import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from scipy.ndimage import correlate

from tests.published_networks import (
    PEERS,
    assert_converts_exactly,
    assert_gradient_norms,
    assert_stage,
    entry_shapes,
    golden_image,
    stages_of,
)
from tests.stand_in_weights import stand_in_state_dict
from vitdeblur_jax.models import restormer
from vitdeblur_jax.models.layers.cpu_remat import remat_on_cpu
from vitdeblur_jax.models.layers.depthwise import depthwise_by_shifts, depthwise_by_xla
from vitdeblur_jax.models.published import from_published
from vitdeblur_jax.models.restormer import (
    CONFIGURATIONS,
    Block,
    Restormer,
    channel_attention,
    published_entries,
)
from vitdeblur_jax.utils.errors import UserError

FOLDER = PEERS / "restormer"
SMALL = {"width": 4, "depths": (1, 1, 1), "heads": (1, 2, 2), "refinement_depth": 1}
STAGES = {
    "patch_embed": "embedding",
    "enc1_0_norm1": "encoder_0_0/attention_norm",
    "enc1_0_attn": "encoder_0_0/attention",
    "enc1_0_ffn": "encoder_0_0/feed_forward",
    "enc1": "encoder_0_3",
    "down1_2": "down_1",
    "enc2": "encoder_1_5",
    "enc3": "encoder_2_5",
    "latent_0_attn": "encoder_3_0/attention",
    "latent": "encoder_3_7",
    "up4_3": "up_2",
    "reduce3": "reduction_2",
    "dec3": "decoder_2_5",
    "dec2": "decoder_1_5",
    "dec1": "decoder_0_3",
    "refine": "refinement_3",
    "out_conv": "output",
}
TOLERANCE = 1e-3  # of golden outputs and stages


def shapes_of(network):
    return FOLDER / ("shapes.json" if network.views == 1 else "shapes_dual.json")


def stand_in(network):
    def temperature(name, noise):
        return 5 * (1 + 0.1 * noise) if name.endswith("temperature") else None

    state_dict = stand_in_state_dict(shapes_of(network), 0, temperature)
    return from_published(state_dict, published_entries(network))


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(FOLDER / "golden_seed0.npz"))


@pytest.mark.slow
def test_golden_stages(golden, optimized):
    network = Restormer()
    output, stages = stages_of(network, stand_in(network), golden_image(golden, "image_rgb"))
    for stage, path in STAGES.items():
        assert_stage(golden, stage, stages[path], TOLERANCE)
    np.testing.assert_allclose(output, golden["output_rgb"], rtol=0, atol=TOLERANCE)


@pytest.mark.slow
def test_golden_extended_image(golden, optimized):
    padding = ((0, 0), (0, 3), (0, 5), (0, 0))
    padded = np.pad(golden_image(golden, "image2_rgb"), padding, mode="reflect")
    network = Restormer()
    output = jax.jit(network.apply)(stand_in(network), padded)[0, :101, :123]
    np.testing.assert_allclose(output, golden["output2_rgb"], rtol=0, atol=TOLERANCE)


@pytest.mark.slow
def test_golden_dual_pixel(optimized):
    golden = dict(np.load(FOLDER / "golden_dual_seed0.npz"))
    network = Restormer(views=2)
    image = golden_image(golden, "image_l_rgb", "image_r_rgb")
    output, stages = stages_of(network, stand_in(network), image)
    for stage in ("patch_embed", "enc1", "latent", "dec1", "refine", "out_conv"):
        assert_stage(golden, stage, stages[STAGES[stage]], TOLERANCE)
    assert_stage(golden, "skip_conv", stages["skip"], TOLERANCE)
    np.testing.assert_allclose(output, golden["output_rgb"], rtol=0, atol=TOLERANCE)


class RematBlock(Block):
    """A block that keeps nothing but its input for the backward pass."""

    def __call__(self, x):
        block = self.clone(parent=None)

        def apply(params, x):
            return block.apply({"params": params}, x, method=Block.__call__)

        return remat_on_cpu(apply)(self.variables["params"], x)


@pytest.mark.slow
def test_golden_gradients(golden, optimized, monkeypatch):
    monkeypatch.setattr(restormer, "Block", RematBlock)  # 15 GB without
    network = Restormer()
    entries = published_entries(network)
    assert_gradient_norms(golden, network, stand_in(network), entries, 1e-3)


def test_published_names_and_shapes():
    network = Restormer()
    shapes = entry_shapes(shapes_of(network))
    assert_converts_exactly(network, published_entries(network), shapes)
    assert sum(np.prod(shape) for shape in shapes.values()) == 26_126_644


def test_published_names_of_two_views():
    entries = published_entries(Restormer(**CONFIGURATIONS["restormer_dual"]))
    assert {x.name for x in entries.values()} == set(entry_shapes(FOLDER / "shapes_dual.json"))
    small = Restormer(**SMALL, views=2)
    image = jnp.zeros((1, 8, 8, 6))
    variables = jax.eval_shape(small.init, jax.random.key(0), image)
    assert set(published_entries(small)) == set(traverse_util.flatten_dict(variables))


def test_attention_is_of_channels_over_all_pixels():
    rng = np.random.default_rng(0)
    query, key, value = rng.standard_normal((3, 2, 15, 3, 4)).astype(np.float32)
    key[0, :, 1, 2] = 0  # a channel without a norm
    temperature = np.float32([1, 5, 0.5])
    expected = np.zeros_like(value)
    for batch in range(2):
        for head in range(3):
            q, k = (x[batch, :, head] for x in (query, key))
            q, k = (x / np.maximum(np.linalg.norm(x, axis=0), 1e-12) for x in (q, k))
            scores = np.exp(temperature[head] * q.T @ k)
            weights = scores / scores.sum(axis=-1, keepdims=True)
            expected[batch, :, head] = value[batch, :, head] @ weights.T
    found = channel_attention(*jax.device_put((query, key, value, temperature)), "highest")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", [depthwise_by_shifts, depthwise_by_xla])
def test_depthwise_convolution_is_of_each_channel(form):
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((1, 5, 7, 2)), rng.standard_normal((3, 3, 1, 2))
    found = form(jax.device_put(x), jax.device_put(kernel))
    for c in range(2):
        expected = correlate(x[0, ..., c], kernel[..., 0, c], mode="constant")
        np.testing.assert_allclose(found[0, ..., c], expected, atol=1e-5)


def test_sides_that_are_no_multiple_are_refused():
    with pytest.raises(UserError, match="multiples of 4 pixels, and got 16 x 18"):
        jax.eval_shape(Restormer(**SMALL).init, jax.random.key(0), jnp.zeros((1, 16, 18, 3)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 5}, "width is 5; it must be even"),
        ({"heads": (1, 2)}, r"depths is \(1, 1, 1\) and heads \(1, 2\)"),
        ({"heads": (1, 3, 2)}, r"heads\[1\] is 3; it must divide the 8 channels"),
    ],
)
def test_levels_that_do_not_fit_together_are_refused(changes, message):
    network = Restormer(**SMALL | changes)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
