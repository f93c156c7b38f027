import jax.numpy as jnp
import numpy as np
from scipy.ndimage import correlate
from scipy.special import softmax

from vitdeblur_jax.models.layers.blur_stacks import recursive_blurs


def test_recursive_blurs_filter_what_the_one_before_left():
    rng = np.random.default_rng(0)
    image, taps = rng.random((2, 7, 9, 3)), rng.standard_normal((4, 3, 2))
    blurs = recursive_blurs(jnp.asarray(image, "f4"), jnp.asarray(taps, "f4"))
    assert blurs.shape == (2, 7, 9, 5, 3)
    for n, channel in np.ndindex(2, 3):
        blurred = image[n, ..., channel]
        np.testing.assert_allclose(blurs[n, :, :, 0, channel], blurred, atol=1e-6)
        for k in range(4):
            p, q = taps[k, channel]
            line = softmax([p, q, p])
            blurred = correlate(blurred, np.outer(line, line), mode="mirror")
            np.testing.assert_allclose(blurs[n, :, :, k + 1, channel], blurred, atol=1e-6)
