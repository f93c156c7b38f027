import dataclasses

import jax
import ml_dtypes
import numpy as np
import pytest

from tests.small_model import small_pretrained
from vitdeblur_jax import UserError, deblur


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).random((50, 60, 3), np.float32)


@pytest.fixture(scope="module")
def restored(small, image):
    return deblur(image, small, stride=30)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_floats_keep_their_dtype_and_are_not_clipped(small, image, restored, dtype):
    again = deblur(image.astype(dtype), small, stride=30)
    assert again.dtype == dtype
    np.testing.assert_allclose(again.astype(np.float32), restored, atol=0.2)
    assert again.min() < 0
    assert again.max() > 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_integers_are_clipped_and_rounded(small, image, dtype):
    largest = np.iinfo(dtype).max
    integers = np.round(image * largest).astype(dtype)
    expected = deblur(integers.astype(np.float32) / np.float32(largest), small, stride=30)
    again = deblur(integers, small, stride=30)
    assert again.dtype == dtype
    np.testing.assert_array_equal(again, np.round(expected.clip(0, 1) * np.float32(largest)))


def test_a_jax_array_gives_a_jax_array(small, image, restored):
    again = deblur(jax.device_put(image), small, stride=30)
    assert isinstance(again, jax.Array)
    np.testing.assert_array_equal(again, restored)


def test_a_batch_equals_its_images(small, image, restored):
    batch = deblur(np.stack([image, image[::-1]]), small, stride=30)
    assert batch.shape == (2, 50, 60, 3)
    np.testing.assert_array_equal(batch[0], restored)
    np.testing.assert_array_equal(batch[1], deblur(image[::-1], small, stride=30))


def test_two_views():
    two = small_pretrained(views=2)
    views = np.random.default_rng(1).random((44, 45, 6), np.float32)
    assert deblur(views, two, stride=30).shape == (44, 45, 3)
    with pytest.raises(UserError, match=r"44 x 45 x 3"):
        deblur(views[..., :3], two)


@pytest.mark.parametrize("shape", [(50,), (50, 60), (2, 2, 50, 60, 3), (0, 50, 60, 3)])
def test_other_shapes_are_refused(small, shape):
    with pytest.raises((UserError, TypeError)):
        deblur(np.zeros(shape, np.float32), small)


def test_tracing_is_an_error_that_says_what_to_call(small, image):
    def of_variables(variables):
        return deblur(image, dataclasses.replace(small, variables=variables))

    def of_image(image):
        return deblur(image, small).sum()

    for transformed, given in (
        (jax.jit(of_image), image),
        (jax.grad(of_image), image),
        (jax.vmap(of_image), image[None]),
        (jax.jit(of_variables), small.variables),
    ):
        with pytest.raises(UserError, match=r"cannot be traced .*pretrained\.model\.apply\("):
            transformed(given)
