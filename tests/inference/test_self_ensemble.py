"""Self-ensemble, compared with NumPy's mean and standard deviation of eight restorations."""

import numpy as np
import pytest

from vitdeblur_jax.inference.self_ensemble import self_ensemble, symmetries


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).random((5, 7, 3), np.float32)


def test_the_symmetries_differ_and_are_invertible(image):
    turned = [symmetry.apply(image) for symmetry in symmetries(1)]
    assert len({(one.shape, one.tobytes()) for one in turned}) == 8
    rotations = {np.rot90(image, k).tobytes() for k in range(4)}
    assert rotations <= {one.tobytes() for one in turned}
    for symmetry, one in zip(symmetries(1), turned, strict=True):
        np.testing.assert_array_equal(symmetry.undo(one), image)


def test_an_equivariant_filter_has_no_spread(image):
    mean, spread = self_ensemble(lambda x: x**2, image, 1)
    np.testing.assert_allclose(mean, image**2, rtol=1e-6)
    assert spread.max() < 1e-6


def test_mean_and_spread_of_the_eight_restorations(image):
    def gradient(x):  # looks the other way in each of the eight
        return np.roll(x, 1, axis=0) - 0.5 * np.roll(x, 1, axis=1)

    each = [
        gradient(image),
        gradient(image[::-1])[::-1],
        gradient(image[:, ::-1])[:, ::-1],
        gradient(image[::-1, ::-1])[::-1, ::-1],
    ]
    across = image.transpose(1, 0, 2)
    each += [
        gradient(across).transpose(1, 0, 2),
        gradient(across[::-1])[::-1].transpose(1, 0, 2),
        gradient(across[:, ::-1])[:, ::-1].transpose(1, 0, 2),
        gradient(across[::-1, ::-1])[::-1, ::-1].transpose(1, 0, 2),
    ]
    mean, spread = self_ensemble(gradient, image, 1)
    np.testing.assert_allclose(mean, np.mean(each, axis=0), atol=1e-6)
    np.testing.assert_allclose(spread, np.sqrt(np.var(each, axis=0).mean(axis=-1)), atol=1e-6)


def test_a_mirror_swaps_the_views():
    views = np.random.default_rng(0).random((4, 6, 6), np.float32)
    seen = []

    def keep(image):
        seen.append(image)
        return image[..., :3]

    self_ensemble(keep, views, 2)
    left, right = np.split(views, 2, axis=-1)
    assert len(seen) == 4
    np.testing.assert_array_equal(seen[1], views[::-1])
    mirrored = np.concatenate([right[:, ::-1], left[:, ::-1]], axis=-1)
    np.testing.assert_array_equal(seen[2], mirrored)
    np.testing.assert_array_equal(seen[3], mirrored[::-1])
