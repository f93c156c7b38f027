"""Results at any strength from one restoration are those of `deblur`."""

import numpy as np
import pytest

from tests.made_up_data import random_image
from vitdeblur_jax import deblur
from vitdeblur_jax.inference.restoration import restore
from vitdeblur_jax.inference.strength import at_strength


@pytest.mark.parametrize(("size", "dtype"), [((300, 43), np.uint8), ((45, 50), np.uint16)])
def test_equals_deblur_to_the_bit(small, size, dtype):
    image = random_image(0, size).astype(dtype) * (257 if dtype == np.uint16 else 1)
    restored = np.concatenate(list(restore(small.model, small.variables, image)))
    for strength in (0.0, 0.3, 1.0):
        expected = deblur(image, small, strength=strength)
        result = at_strength(image, restored, strength, dtype)
        np.testing.assert_array_equal(result, expected)
        assert result.dtype == dtype


def test_other_dtypes():
    image = np.full((3, 4, 3), 20, np.uint16)
    restored = np.array([-1, 0.5, 2], np.float32) * np.ones((3, 4, 1), np.float32)
    assert at_strength(image, restored, 1.0, np.uint8)[0, 0].tolist() == [0, 128, 255]
    assert at_strength(image, restored, 1.0, np.float32)[0, 0].tolist() == [-1, 0.5, 2]
