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
    furthest_column,
    golden_image,
    one_sided_variables,
    random_variables,
)
from tests.stand_in_weights import stand_in_state_dict
from vitdeblur_jax.models.nrknet import (
    NRKNet,
    output_losses,
    published_entries,
    published_unused,
)
from vitdeblur_jax.models.published import from_published, to_published
from vitdeblur_jax.models.tilings import HaloTiles, WholeImage
from vitdeblur_jax.utils.errors import UserError

FOLDER = PEERS / "nrknet"
SMALL = {"widths": (3, 4, 5), "num_blurs": 2}
UNET = {
    "down_0": "feat0",
    "encoder_0": "enc0",
    "down_1": "down1",
    "encoder_2": "enc2",
    "bottleneck": "bottleneck",
    "up_0": "up1",
    "decoder_2": "dec2",
}


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(FOLDER / "golden_seed0.npz"))


@pytest.fixture(scope="module")
def image(golden):
    return jax.device_put(golden_image(golden, "image_rgb"))


@pytest.fixture(scope="module")
def variables():
    state_dict = stand_in_state_dict(FOLDER / "shapes.json", 0, _special)
    return from_published(state_dict, published_entries(NRKNet()))


def _special(name, noise):
    if name == "GCM.kernels":
        return noise
    if noise.shape[2:] == (4, 4):  # each output pixel takes in four taps
        return noise / np.sqrt(noise.shape[0] * 4)
    return None


@functools.partial(jax.jit, static_argnums=0)
def _intermediates(network, variables, image):
    return network.apply(variables, image, capture_intermediates=True, mutable="intermediates")


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_every_stage_matches_the_published_network(golden, image, variables):
    output, state = _intermediates(NRKNet(), variables, image)
    found = state["intermediates"]
    near = functools.partial(assert_stage, golden, atol=5e-5)
    for scale in range(3):
        for module, stage in UNET.items():
            if f"stage_s{scale}_{stage}_stats" in golden:
                features = found["unet"][module]["__call__"][scale][0]
                is_conv = module.startswith(("down", "up"))
                near(f"s{scale}_{stage}", np.maximum(features, 0) if is_conv else features)
        near(f"s{scale}_apuconv", np.maximum(found["maps"]["norm"]["__call__"][scale][0], 0))
        h, c = found["maps"]["lstm"]["__call__"][scale]
        near(f"s{scale}_h", h[0])
        near(f"s{scale}_c", c[0])
        near(f"s{scale}_weights", found["maps"]["__call__"][scale][0][0])
    np.testing.assert_allclose(output[0], golden["output_rgb"], atol=5e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_the_training_call_matches_the_published_one(golden, image, variables):
    @functools.partial(jax.jit, static_argnums=0)
    def scales(network, variables, blurred, sharp):
        bound = network.bind(variables)
        found = bound._scales(blurred, False)
        return found, bound._reblurred(sharp, found)

    found, reblurred = scales(NRKNet(), variables, image, image[:, :, ::-1])
    near = functools.partial(assert_stage, golden, atol=5e-5)
    for i, scale in enumerate(found):
        for j, term in enumerate(scale.terms[1:]):
            near(f"s{i}_temp{j}", term[0, :, :, ::-1])
        near(f"train_deblurred{i}", sum(scale.terms)[0, :, :, ::-1])
        near(f"train_reblurred{i}", reblurred[i][0, :, :, ::-1])


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_statistics_of_the_image_match_the_published_test_script(golden, image, variables):
    network = NRKNet(image_statistics=True)
    output = jax.jit(network.apply)(variables, image)
    np.testing.assert_allclose(output[0], golden["output_rgb_batchstats"], atol=5e-5)
    trained = jax.jit(lambda x: NRKNet().apply(variables, x, True, mutable="batch_stats"))
    output, state = trained(image)
    np.testing.assert_allclose(output[0], golden["output_rgb_batchstats"], atol=5e-5)
    statistics = state["batch_stats"]["maps"]["norm"]
    np.testing.assert_allclose(statistics["mean"], golden["bn_after_running_mean"], atol=1e-5)
    np.testing.assert_allclose(statistics["var"], golden["bn_after_running_var"], atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_gradients_match_the_published_network(golden, variables):
    network = NRKNet()
    assert_gradient_norms(golden, network, variables, published_entries(network), 3e-4)


def test_half_precision_is_that_of_the_convolutions():
    network = NRKNet(**SMALL, dtype="bfloat16")
    image = jnp.zeros((1, 32, 32, 3), "bfloat16")
    outputs = jax.eval_shape(network.init_with_output, jax.random.key(0), image)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(outputs)} == {"float32"}


def test_published_entries():
    network, shapes = NRKNet(), entry_shapes(FOLDER / "shapes.json")
    for name, array in published_unused(network).items():
        assert shapes.pop(name) == array.shape
    assert_converts_exactly(network, published_entries(network), shapes)


def test_conversion_permutes_bgr():
    network = NRKNet(**SMALL)
    entries = published_entries(network)
    published = to_published(random_variables(network), entries)
    params = from_published(published, entries)["params"]
    first = published["feat_extract.0.main.0.weight"]  # (out, in, height, width)
    np.testing.assert_array_equal(params["unet"]["down_0"]["kernel"][1, 2, 0], first[:, 2, 1, 2])
    taps = published["GCM.kernels"]  # (3 k + channel, 1, 1, 2)
    np.testing.assert_array_equal(params["reblur"]["taps"][1, 0], taps[5, 0, 0])
    mixed = published["SummationLayer.conv.weight"]  # (out, 3 k + channel, 1, 1)
    assert params["reblur"]["sum"]["kernel"][0, 0, 3, 1] == mixed[1, 5, 0, 0]
    assert params["reblur"]["sum"]["bias"][0] == published["SummationLayer.conv.bias"][2]


def test_output_losses():
    rng = np.random.default_rng(0)
    sharp = rng.random((2, 8, 12, 3))
    targets = [sharp.reshape(2, 2, 4, 3, 4, 3)[:, :, 1:3, :, 1:3].mean((2, 4))]
    targets += [sharp.reshape(2, 4, 2, 6, 2, 3).mean((2, 4)), sharp, sharp]
    outputs = [target + rng.standard_normal(target.shape) for target in targets]
    names = frozenset({"pyramid_mse", "pyramid_fourier"})
    arrays = jax.device_put([*outputs, sharp])
    found = jax.jit(output_losses, static_argnums=2)(arrays[:4], arrays[4], names)
    assert set(found) == names
    mse, fourier = 0, 0
    for weight, output, target in zip((0.25, 0.5, 0.75, 1), outputs, targets, strict=True):
        mse += weight * ((output - target) ** 2).mean((1, 2, 3))
        x = np.fft.fft2(output - target, axes=(1, 2))
        fourier += weight * (abs(x.real) + abs(x.imag)).mean((1, 2, 3))
    np.testing.assert_allclose(found["pyramid_mse"], mse, rtol=1e-5)
    np.testing.assert_allclose(found["pyramid_fourier"], fourier, rtol=1e-5)


@pytest.mark.slow
def test_training_outputs_are_those_of_all_scales():
    network, rng = NRKNet(**SMALL), np.random.default_rng(0)
    blurred, sharp = jax.device_put(rng.random((2, 2, 64, 64, 3)))

    @jax.jit
    def outputs_of(variables):
        bound = network.bind(variables)
        scales = bound._scales(blurred, False)
        reblurred = bound._reblurred(sharp, scales)
        return scales, reblurred, bound.training_outputs(blurred, sharp, False, names)

    names = frozenset(NRKNet.LOSS_TERMS)
    scales, reblurred, (restored, terms) = outputs_of(random_variables(network))
    outputs = [*(sum(scale.terms) for scale in scales), restored]
    expected = output_losses(outputs, sharp, names)
    expected["reblurring"] = sum(
        np.asarray((image - scale.terms[0]) ** 2).mean((1, 2, 3))
        for image, scale in zip(reblurred, scales, strict=True)
    )
    assert set(terms) == set(expected) == names
    for name in names:
        np.testing.assert_allclose(terms[name], expected[name], rtol=1e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("shape", [(1, 48, 1296, 3), (1, 1296, 48, 3)])
def test_tiles_equal_the_whole_image(shape):
    network = NRKNet(widths=(2, 2, 2))
    variables = random_variables(network, shape)
    assert_tiles_are_exact(network, variables, shape, 432, atol=1e-5, too_small=32, visible=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_the_halo_is_as_wide_as_the_receptive_field():
    network = NRKNet(widths=(2, 2, 2))
    variables = one_sided_variables(network, (1, 32, 32, 3), 0)
    furthest = furthest_column(network, variables, 0, range(416, 432))
    assert furthest == 393  # as measured with the published network
    assert network.tiling == HaloTiles(400, 16)


def test_tiling_and_sizes():
    assert NRKNet().tiling == HaloTiles(400, 16)
    network = NRKNet(image_statistics=True)
    assert network.tiling == WholeImage(16)
    with pytest.raises(UserError, match="multiples of 16"):
        network.init(jax.random.key(0), jnp.zeros((1, 32, 40, 3)))
