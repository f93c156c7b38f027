import jax.numpy as jnp
import numpy as np
import pytest

from vitdeblur_jax.models.layers.views import views_and_combined
from vitdeblur_jax.models.tilings import check_image
from vitdeblur_jax.utils.errors import UserError

THREE = jnp.arange(9, dtype="f4").reshape(1, 1, 1, 9)


@pytest.mark.parametrize(
    ("channels", "views", "combined"),
    [(3, range(3), range(3)), (6, range(6), (1.5, 2.5, 3.5)), (9, range(6), range(6, 9))],
)
def test_combined_image(channels, views, combined):
    ours = views_and_combined(THREE[..., :channels])
    np.testing.assert_array_equal(ours[0].ravel(), list(views))
    np.testing.assert_array_equal(ours[1].ravel(), list(combined))


def test_wrong_images_are_named():
    check_image((1, 16, 8, 6), 2, 8, (1, 2))
    with pytest.raises(UserError, match="multiples of 8 pixels, and got 16 x 12"):
        check_image((1, 16, 12, 6), 2, 8, (1, 2))
    with pytest.raises(UserError, match="6 channels, and got 3: set its views to 1, or give it 2"):
        check_image((1, 16, 8, 3), 2, 8, (1, 2))
    with pytest.raises(UserError, match="3 channels, and got 6: give it 1 RGB image"):
        check_image((1, 16, 8, 6), 1, 8, (1,))


def test_wrong_views_are_named():
    with pytest.raises(UserError, match="views is 3, and the network supports 1 or 2"):
        check_image((1, 16, 8, 9), 3, 8, (1, 2))
