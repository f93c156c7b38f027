"""Defocus on the device: the NumPy renderer on equal scenes, SciPy and finite differences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from vitdeblur_jax.data.defocus import apertures, thin_lens
from vitdeblur_jax.data.defocus.on_device.apertures import (
    Aperture,
    cat_eye,
    disk,
    point_image,
    polygon,
)
from vitdeblur_jax.data.defocus.on_device.surfaces import surfaces_of
from vitdeblur_jax.data.defocus.on_device.thin_lens import defocus

LARGEST, SIDE = 8.0, 40
APERTURES = {
    "disk": (apertures.disk(), disk()),
    "pentagon": (apertures.polygon(5, 0.3), polygon(5, 0.3)),
    "nonagon": (apertures.polygon(9, 1.3), polygon(9, 1.3)),
    "cat_eye": (apertures.cat_eye(0.6, 0.4), cat_eye(0.6, 0.4)),
    "bright rim": (
        apertures.cat_eye(0.3, 1.4)._replace(falloff=-0.6),
        cat_eye(0.3, 1.4)._replace(falloff=-0.6),
    ),
}
PENTAGON = APERTURES["pentagon"]
HALVES = None, "left", "right"
Y, X = np.mgrid[:SIDE, :SIDE].astype(np.float32)
SCENES = {
    "flat": np.full((SIDE, SIDE), 3.3),
    "in focus": np.zeros((SIDE, SIDE)),
    "layers": np.where(X + 0.5 * Y < 30, -6.0, np.where(Y < 20, 8.0, 1.0)),
    "tilted layers": np.where(X + 0.5 * Y < 30, X / 30 - 3, 5 + Y / 60),
    "disks": np.where(np.hypot(X - 20, Y - 22) < 11, -3.0, np.where(np.hypot(X - 8, Y) < 7, 2, 7)),
    "line": np.where(np.abs(X - Y) < 2, -2.0, 4.0),
    "smooth": X / 6 - 4 + np.sin(Y / 9),
    "noise": np.clip(3 * np.random.default_rng(1).standard_normal((SIDE, SIDE)), -8, 8),
}

views = partial(defocus, largest_radius=LARGEST, halves=HALVES)  # one program for all
render = jax.jit(views)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).random((SIDE, SIDE, 3), np.float32)


def in_numpy(image, radius, aperture) -> np.ndarray:
    """Returns the three views."""
    radius = np.asarray(radius, np.float32)
    seen = [thin_lens.defocus(image, radius, aperture, half) for half in HALVES]
    return np.concatenate(seen, axis=-1)


@pytest.mark.parametrize("half", HALVES)
def test_kernels_are_those_of_numpy(half):
    image_of = jax.jit(partial(point_image, largest_radius=12.0, half=half))
    for known, aperture in APERTURES.values():
        for radius in (-12.0, -7.4, -1.0, 0.0, 0.5, 0.51, 0.77, 1.5, 2.9, 6.2, 11.5):
            kernel, want = image_of(aperture, radius), apertures.point_image(known, radius, half)
            want = np.pad(want, (len(kernel) - len(want)) // 2)
            np.testing.assert_allclose(kernel, want, atol=1e-5 * want.max())


@pytest.mark.parametrize("scene", SCENES)
def test_equal_scenes_are_rendered_like_numpy(image, scene):
    radius = SCENES[scene].astype(np.float32)
    for known, aperture in (APERTURES["pentagon"], APERTURES["cat_eye"]):
        found = render(image, radius, aperture)
        np.testing.assert_allclose(found, in_numpy(image, radius, known), atol=2e-6)


@pytest.mark.parametrize("scene", ["layers", "tilted layers", "disks", "line", "noise"])
def test_hidden_surfaces_are_those_of_scipys_distance_transform(image, scene):
    radius = SCENES[scene].astype(np.float32)
    visible, hidden = thin_lens.surfaces_of(image, radius)
    found = jax.jit(surfaces_of, static_argnums=2)(image, radius, LARGEST)
    np.testing.assert_allclose(found.present[0], visible.present, atol=1e-6)
    np.testing.assert_array_equal(found.present[1], hidden.present)
    is_hidden = hidden.present > 0
    # Of equally near pixels either may be taken.
    for mine, known in ((found.radius[1], hidden.radius), (found.color[1], hidden.color)):
        assert np.mean(np.asarray(mine)[is_hidden] != known[is_hidden]) < 0.02


def test_one_flat_layer_is_a_convolution(image):
    kernel = apertures.point_image(apertures.polygon(5, 0.3), 6.2)
    want = np.stack([ndimage.convolve(c, kernel) for c in np.moveaxis(image, -1, 0)], axis=-1)
    found = render(image, np.full((SIDE, SIDE), 6.2, np.float32), polygon(5, 0.3))
    np.testing.assert_allclose(found[..., :3], want, atol=2e-6)


@pytest.mark.slow
def test_scenes_of_a_batch_do_not_depend_on_each_other(image):
    radii = jnp.stack([jax.device_put(SCENES[name]) for name in ("layers", "smooth")])
    lenses = jax.tree.map(lambda *x: jnp.stack(x), polygon(5, 0.3), cat_eye(0.6, 0.4))
    together = jax.jit(jax.vmap(views, (None, 0, 0)))
    for number, blurred in enumerate(together(image, radii, lenses)):
        alone = render(image, radii[number], Aperture(*(value[number] for value in lenses)))
        np.testing.assert_allclose(blurred, alone, atol=2e-6)


def test_radii_beyond_the_largest_are_clipped(image):
    beyond, at_limit = (np.full((SIDE, SIDE), r, np.float32) for r in (LARGEST + 3, LARGEST))
    np.testing.assert_array_equal(render(image, beyond, disk()), render(image, at_limit, disk()))


def test_kernels_have_the_derivative_of_finite_differences():
    y, x = np.mgrid[-6:7, -6:7].astype(np.float32)
    weights = x**2 + 2 * y**2 + x * y + 3 * x
    known, aperture = PENTAGON

    @jax.jit
    @jax.grad
    def slope(radius):
        return jnp.sum(weights * point_image(aperture, radius, 6.2))

    def value(radius):
        kernel = apertures.point_image(known, radius)
        return np.sum(np.pad(kernel, (13 - len(kernel)) // 2) * weights)

    for radius in (-5.1, -0.8, 0.0, 0.3, 1.2, 3.3, 6.1):
        want = (value(radius + 0.05) - value(radius - 0.05)) / 0.1
        assert float(slope(radius)) == pytest.approx(want, rel=0.015, abs=1e-4)


SHIFTED = {  # scenes of one parameter, and its value
    "one layer": (lambda r: r + 0 * X, 3.2),
    "near layer": (lambda r: jnp.where(X < 17, r, 2.1), -3.3),
    "far layer": (lambda r: jnp.where(X < 17, -1.2, r), 4.4),
    "smooth field": (lambda r: r * (X / 20 - 0.4) + Y / 25, 3.1),
    "tilted layers": (lambda r: jnp.where(X < 17, Y / 30 - 3 + r, 2 + 0.7 * r + X / 60), 0.6),
}


def moving(scene: str) -> tuple[jax.Array, jax.Array]:
    """Returns the radii of a scene, and their derivatives."""
    radius_of, value = SHIFTED[scene]
    radius, change = jax.jvp(radius_of, (value,), (1.0,))
    return jnp.array(radius, jnp.float32), jnp.array(change, jnp.float32)


def details(image) -> np.ndarray:
    """Returns weights of a mean whose value falls with the blur."""
    return np.tile(image - ndimage.gaussian_filter(image, (3, 3, 0)), 3)


def difference(image, scene: str, step: float = 0.04) -> float:
    """Returns the derivative of NumPy's weighted mean by central differences."""
    radius_of, value = SHIFTED[scene]
    ends = (
        np.sum(details(image) * in_numpy(image, radius_of(value + sign * step), PENTAGON[0]))
        for sign in (1, -1)
    )
    return float(np.subtract(*ends) / (2 * step))


@pytest.mark.slow
@pytest.mark.parametrize("scene", SHIFTED)
def test_derivatives_by_the_radius_match_finite_differences_of_numpy(image, forward, scene):
    radius, change = moving(scene)
    weights = details(image)
    found = forward(image, radius, change, weights)
    # The samples of the kernels make the function a little rough.
    assert float(found) == pytest.approx(difference(image, scene), rel=0.03)


@pytest.fixture(scope="module")
def forward():
    """Returns the derivative of the weighted sum along a change of the radius."""

    def derivative(image, radius, change, weights):
        def blur(radius):
            return jnp.sum(weights * views(image, radius, PENTAGON[1]))

        return jax.jvp(blur, (radius,), (change,))[1]

    return jax.jit(derivative)


@pytest.fixture(scope="module")
def backward():
    """Returns the gradients of the weighted sum by image and radius."""

    def blur(image, radius, weights):
        return jnp.sum(weights * views(image, radius, PENTAGON[1]))

    return jax.jit(jax.grad(blur, (0, 1)))


@pytest.mark.slow
@pytest.mark.parametrize("scene", SHIFTED)
def test_gradients_match_finite_differences_and_a_linear_map(image, backward, scene):
    radius, change = moving(scene)
    weights = details(image)
    of_image, of_radius = backward(image, radius, weights)
    assert float((of_radius * change).sum()) == pytest.approx(difference(image, scene), rel=0.03)
    other = np.random.default_rng(3).standard_normal(image.shape).astype(np.float32)
    want = (weights * in_numpy(other, radius, PENTAGON[0])).sum()  # blur is linear in the image
    assert float((of_image * other).sum()) == pytest.approx(float(want), rel=1e-3)
