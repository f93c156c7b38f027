import jax
import numpy as np
import pytest
from scipy.ndimage import correlate
from scipy.special import expit

from vitdeblur_jax.models.layers.recurrent_maps import RecurrentMaps


def convolved(x, kernel, mode):
    """Returns each output channel as a sum of SciPy's correlations."""
    return np.stack(
        [
            sum(correlate(x[..., i], kernel[..., i, o], mode=mode) for i in range(x.shape[-1]))
            for o in range(kernel.shape[-1])
        ],
        axis=-1,
    )


@pytest.mark.parametrize("reflect", [True, False])
def test_maps_and_state_follow_their_definition(reflect):
    rng = np.random.default_rng(0)
    module = RecurrentMaps(2, reflect)
    x = rng.standard_normal((8, 12, 3))
    carry = rng.standard_normal((2, 4, 6, 2))
    inputs = jax.device_put(x[None]), jax.device_put(tuple(carry[:, None]))
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    variables = jax.tree.map(lambda leaf: jax.device_put(rng.random(leaf.shape)), shapes)
    maps, (h, c) = jax.jit(module.apply)(variables, *inputs)

    params, stats = variables["params"], variables["batch_stats"]["norm"]
    a = convolved(x, params["conv"]["kernel"], "mirror" if reflect else "constant")
    assert ("bias" in params["conv"]) != reflect
    a = a + (0 if reflect else params["conv"]["bias"])
    a = (a - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    a = np.maximum(a * params["norm"]["scale"] + params["norm"]["bias"], 0)
    pooled = x.reshape(4, 2, 6, 2, 3).mean((1, 3))
    gates = params["lstm"]["gates"]
    stack = np.concatenate([pooled, carry[0]], axis=-1)
    values = convolved(stack, gates["kernel"], "constant") + gates["bias"]
    i, f, o, g = np.split(np.asarray(values), 4, axis=-1)
    expected_c = expit(f) * carry[1] + expit(i) * np.tanh(g)
    expected_h = expit(o) * np.tanh(expected_c)
    np.testing.assert_allclose(c[0], expected_c, atol=1e-4)
    np.testing.assert_allclose(h[0], expected_h, atol=1e-4)
    u = np.kron(expected_h, np.ones((2, 2, 1)))
    np.testing.assert_allclose(maps[0], u + u * a, atol=1e-4)
