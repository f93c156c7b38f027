import jax.numpy as jnp
import numpy as np
import pytest

from vitdeblur_jax.training import losses


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
