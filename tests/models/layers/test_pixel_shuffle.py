import jax.numpy as jnp
import numpy as np

from vitdeblur_jax.models.layers.pixel_shuffle import pixel_shuffle, pixel_unshuffle


def test_unshuffled_channels_are_the_pixels_of_each_channel_in_turn():
    x = np.arange(4 * 6 * 2).reshape(1, 4, 6, 2).astype(np.float32)
    found = np.asarray(pixel_unshuffle(jnp.asarray(x)))
    for c in range(2):
        for dy in range(2):
            for dx in range(2):
                expected = x[:, dy::2, dx::2, c]
                np.testing.assert_array_equal(found[..., 4 * c + 2 * dy + dx], expected)
    np.testing.assert_array_equal(pixel_shuffle(jnp.asarray(found)), x)
