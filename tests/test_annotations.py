import jaxtyping
import numpy as np
import pytest

from vitdeblur_jax.data.transforms import unit_range
from vitdeblur_jax.metrics import mean_absolute_error


def test_annotations_of_shapes_and_dtypes_are_checked():
    with pytest.raises(jaxtyping.TypeCheckError, match="images"):
        unit_range(np.zeros((2, 3), np.int64))
    with pytest.raises(jaxtyping.TypeCheckError, match="reference"):
        mean_absolute_error(np.zeros((2, 3, 3)), np.zeros((2, 4, 3)))
