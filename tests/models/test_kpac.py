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
    entry_shapes,
    golden_image,
    random_variables,
    stages_of,
    stand_in_from_rules,
)
from vitdeblur_jax.models.kpac import KPAC, Block, SharedKernel, published_entries
from vitdeblur_jax.models.published import from_published
from vitdeblur_jax.models.tilings import WholeImage
from vitdeblur_jax.utils.errors import UserError

FOLDER = PEERS / "kpac"
SMALL = {"width": 4, "rates": (1, 2), "attention_widths": (3, 2)}
FORMS = {"": {}, "_3level": {"levels": 3}, "_dual": {"levels": 3, "views": 3}}


class Form:
    """One of the published networks, with stand-in weights and golden values."""

    def __init__(self, suffix):
        self.network = KPAC(**FORMS[suffix])
        self.entries = published_entries(self.network)
        state_dict = stand_in_from_rules(FOLDER / f"shapes{suffix}.json", 0)
        self.variables = from_published(state_dict, self.entries)
        self.golden = dict(np.load(FOLDER / f"golden{suffix}_seed0.npz"))

    def image(self, name="image"):
        views = ("_left_rgb", "_right_rgb", "_rgb")[-self.network.views :]
        return jax.device_put(golden_image(self.golden, *(name + view for view in views)))


@pytest.fixture(scope="module", params=FORMS)
def form(request):
    return Form(request.param)


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_every_stage_matches_the_published_network(form):
    output, found = stages_of(form.network, form.variables, form.image())
    near = functools.partial(assert_stage, form.golden, atol=5e-5)
    levels = form.network.levels
    for level in range(levels + 1):
        near(f"enc{level + 1}", found[f"encoder_{level}"])
    for i, rate in enumerate((1, 3, 5)):
        near(f"b0_rate{rate}", found["blocks_0/shared"][:, :, 2 * i])
    for b in range(2):
        near(f"b{b}_scale", found[f"blocks_{b}/scale_attention_4"])
        near(f"b{b}_shape", found[f"blocks_{b}/shape_attention_1"])
        near(f"b{b}_out", found[f"blocks_{b}"])
    near("cm2", found["mix_1"])
    for i in range(levels):
        near(f"d{3 - levels + i}", found[f"up_{i}"])
        decoded = found[f"decoder_{i}"]
        near("residual" if i == levels - 1 else f"d{3 - levels + i}_2", decoded)
    np.testing.assert_allclose(2 * output - 1, form.golden["output_rgb"], atol=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_another_size_matches_the_published_network(form):
    output = jax.jit(form.network.apply)(form.variables, form.image("image2"))
    np.testing.assert_allclose(2 * output[0] - 1, form.golden["output2_rgb"], atol=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_gradients_match_the_published_network(form):
    assert_gradient_norms(
        form.golden,
        form.network,
        form.variables,
        form.entries,
        1e-3,
        form.image(),
        in_golden_range=lambda output: 2 * output - 1,
    )


def test_half_precision_is_that_of_the_convolutions():
    network = KPAC(**SMALL, dtype="bfloat16")
    image = jnp.zeros((1, 32, 32, 3), "bfloat16")
    outputs = jax.eval_shape(network.init_with_output, jax.random.key(0), image)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(outputs)} == {"float32"}


@pytest.mark.parametrize("suffix", FORMS)
def test_published_entries(suffix):
    network = KPAC(**FORMS[suffix])
    shapes = entry_shapes(FOLDER / f"shapes{suffix}.json")
    assert_converts_exactly(network, published_entries(network), shapes)


def variables_of(module, x):
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jax.device_put(rng.normal(0, 0.3, leaf.shape)), shapes)


@pytest.fixture
def features():
    return jax.device_put(np.random.default_rng(0).standard_normal((1, 6, 8, 8)))


def leaky(x):
    return np.where(x > 0, x, 0.2 * x)


def test_one_kernel_at_all_rates(features):
    module = SharedKernel(2, (1, 3))
    variables = variables_of(module, features)
    kernel = np.asarray(variables["params"]["kernel"])
    found = module.apply(variables, features)
    for i, rate in enumerate(module.rates):
        padded = np.pad(features[0], ((2 * rate,) * 2, (2 * rate,) * 2, (0, 0)))
        for y, x in np.ndindex(6, 8):
            rows, columns = (slice(n, n + 4 * rate + 1, rate) for n in (y, x))
            expected = np.einsum("ijc,ijcf->f", padded[rows, columns], kernel)
            np.testing.assert_allclose(found[0, y, x, i], leaky(expected), atol=1e-5)


def test_attentions_weight_rates_and_channels(features):
    block = Block(8, (1, 2), (3,))
    variables = variables_of(block, features)
    output, state = block.apply(
        variables, features, capture_intermediates=True, mutable="intermediates"
    )
    found = {name: x["__call__"][0] for name, x in state["intermediates"].items() if name[0] != "_"}
    scale, shape = found["scale_attention_1"], found["shape_attention_1"]
    weighted = np.concatenate(
        [found["shared"][..., rate, :] * scale[..., rate, None] * shape for rate in range(2)],
        axis=-1,
    )
    parameters = variables["params"]["fuse"]["conv"]
    padded = np.pad(weighted[0], ((1, 1), (1, 1), (0, 0)))
    expected = np.einsum("ijc,ijcf->f", padded[2:5, 3:6], parameters["kernel"])
    np.testing.assert_allclose(output[0, 2, 3], leaky(expected + parameters["bias"]), atol=1e-5)


def test_the_residual_is_added_to_the_combined_image():
    network = KPAC(**SMALL, views=3)
    image = jax.device_put(np.random.default_rng(0).random((8, 8, 9)))
    images = jnp.stack([image, image.at[..., 6:].add(0.25)])
    restored, brighter = jax.jit(network.apply)(random_variables(network), images)
    np.testing.assert_allclose(brighter, restored + 0.25, atol=1e-6)
    assert np.abs(restored - image[..., 6:]).max() > 0.01


def test_tiling_and_sizes():
    assert KPAC().tiling == WholeImage(4)
    network = KPAC(**SMALL, levels=3)
    assert network.tiling == WholeImage(8)
    with pytest.raises(UserError, match="multiples of 8"):
        network.init(jax.random.key(0), jnp.zeros((1, 12, 16, 3)))
