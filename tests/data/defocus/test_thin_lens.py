"""Defocus against ray tracing, exact areas and hand-computed optics."""

import math

import numpy as np
import pytest
from scipy import ndimage

from vitdeblur_jax.data.defocus.apertures import cat_eye, disk, point_image, polygon
from vitdeblur_jax.data.defocus.thin_lens import (
    Surface,
    defocus,
    render,
)

APERTURES = {
    "disk": disk(),
    "pentagon": polygon(5, 0.3),
    "cat_eye": cat_eye(0.6, 0.4),
    "bright center": disk()._replace(falloff=0.8),
}


def texture(rng: np.random.Generator, side: int, sigma: float) -> np.ndarray:
    noise = ndimage.gaussian_filter(rng.standard_normal((side, side, 3)), (sigma, sigma, 0))
    return np.clip(0.5 + 0.25 * noise / noise.std(), 0, 1).astype(np.float32)


def traced(surfaces: list[Surface], rays: int = 1000) -> np.ndarray:
    """Averages, ray by ray, what lies first behind each place of a disk; nearest surface first."""
    shape = surfaces[0].radius.shape
    y, x = np.mgrid[: shape[0], : shape[1]]
    distance = np.sqrt((np.arange(rays) + 0.5) / rays)
    angle = np.arange(rays) * math.pi * (3 - math.sqrt(5))
    total = np.zeros((*shape, 3))
    for u, v in zip(distance * np.cos(angle), distance * np.sin(angle), strict=True):
        passing = np.ones((*shape, 1))
        for color, radius, present in surfaces:
            rows = np.clip(np.rint(y - radius.flat[0] * v), 0, shape[0] - 1).astype(int)
            columns = np.clip(np.rint(x - radius.flat[0] * u), 0, shape[1] - 1).astype(int)
            alpha = present[rows, columns, None]
            total += passing * alpha * color[rows, columns]
            passing = passing * (1 - alpha)
    return total / rays


def disk_overlap(x: float, y: float, radius: float) -> float:
    """Area of a disk at the origin in the unit square around (x, y), by columns 1e-4 wide."""
    columns = x - 0.5 + (np.arange(10000) + 0.5) / 10000
    half = np.sqrt(np.maximum(radius**2 - columns**2, 0))
    return float(np.mean(np.maximum(np.minimum(y + 0.5, half) - np.maximum(y - 0.5, -half), 0)))


@pytest.mark.parametrize("radius", [0.3, 0.77, 1.5, 2.9, 6.2])
def test_disk_matches_exact_areas(radius):
    kernel = point_image(disk(), radius)
    reach = len(kernel) // 2
    places = range(-reach, reach + 1)
    areas = np.array([[disk_overlap(x, y, radius) for x in places] for y in places])
    assert areas.sum() == pytest.approx(math.pi * radius**2, rel=1e-4)  # nothing beyond the kernel
    np.testing.assert_allclose(kernel, areas / areas.sum(), atol=2e-3 * areas.max() / areas.sum())


@pytest.mark.parametrize("blades", [3, 5, 6, 9])
@pytest.mark.parametrize("rotation", [0.0, 0.4])
def test_polygon_has_its_area(blades, rotation):
    # A pixel inside holds 1 / area.
    area = 1 / point_image(polygon(blades, rotation), 9.3).max()
    assert area == pytest.approx(blades / 2 * math.sin(2 * math.pi / blades) * 9.3**2, rel=2e-3)


def test_polygon_turns():
    kernel = point_image(polygon(4, 0.0), 6.0)  # corners on the axes
    assert kernel[6, 0] > 0
    assert kernel[1, 1] == 0
    turned = point_image(polygon(4, math.pi / 4), 6.0)
    assert len(turned) == len(kernel)
    assert turned[6, 0] == 0
    assert turned[2, 2] > 0


@pytest.mark.parametrize("offset", [0.0, 0.5, 1.2])
def test_cat_eye_has_the_area_of_a_lens_and_stays_centerd(offset):
    radius = 9.3
    kernel = point_image(cat_eye(offset, 0.4), radius)
    half = offset / 2  # area of two unit disks' intersection
    area = 2 * (math.acos(half) - half * math.sqrt(1 - half**2)) * radius**2
    assert 1 / kernel.max() == pytest.approx(area, rel=2e-3)
    places = np.arange(len(kernel)) - len(kernel) // 2
    assert abs(places @ kernel.sum(0)) < 1e-9
    assert abs(places @ kernel.sum(1)) < 1e-9


@pytest.mark.parametrize("falloff", [-1.0, -0.4, 0.7, 1.0])
@pytest.mark.parametrize("radius", [3.7, 10.3])
def test_light_falls_off_towards_the_rim(falloff, radius):
    kernel = point_image(disk()._replace(falloff=falloff), radius)
    places = np.arange(len(kernel)) - len(kernel) // 2
    # The mean of r^2 over the unit disk, weighted by the light; 1 / 6 is the extent of a pixel.
    spread = (kernel * (places**2 + places[:, None] ** 2)).sum()
    assert spread == pytest.approx(radius**2 * (1 / 2 - falloff / 6) + 1 / 6, rel=1e-2)
    center = kernel[len(kernel) // 2, len(kernel) // 2]
    assert center * math.pi * radius**2 == pytest.approx(1 + falloff, abs=0.03)


@pytest.mark.parametrize("name", APERTURES)
@pytest.mark.parametrize("radius", [-7.4, -1.0, 0.0, 0.2, 0.6, 3.3, 12.0])
def test_left_plus_right_is_the_whole(name, radius):
    whole = point_image(APERTURES[name], radius)
    left, right = (point_image(APERTURES[name], radius, half) for half in ("left", "right"))
    assert abs(whole.sum() - 1) < 1e-12
    assert abs(left.sum() - 1) < 1e-12
    np.testing.assert_allclose((left + right) / 2, whole, atol=1e-12)


def test_views_of_what_is_behind_and_in_front_lie_apart_in_opposite_senses():
    places = np.arange(-5, 6)
    for radius in (5.0, -5.0):
        left, right = (
            point_image(disk(), radius, half).sum(0) @ places for half in ("left", "right")
        )
        # The middle of a half disk lies 4 / (3 pi) of the radius from the cut.
        assert left == pytest.approx(-radius * 4 / (3 * math.pi), rel=1e-2)
        assert right == pytest.approx(-left, rel=1e-6)


def test_in_front_of_the_focus_the_aperture_is_upside_down():
    behind, front = (point_image(polygon(5, 0.3), radius) for radius in (6.0, -6.0))
    np.testing.assert_array_equal(front, behind[::-1, ::-1])
    assert np.abs(front - behind).max() > 1e-3


def test_radius_zero_is_the_identity():
    image = texture(np.random.default_rng(0), 24, 0.5)
    np.testing.assert_array_equal(defocus(image, np.zeros((24, 24), np.float32), disk()), image)


@pytest.mark.parametrize("name", APERTURES)
def test_a_point_keeps_its_light(name):
    image = np.zeros((41, 41, 3), np.float32)
    image[20, 20] = 1
    for half in (None, "left", "right"):
        blurred = defocus(image, np.full((41, 41), 6.3, np.float32), APERTURES[name], half)
        np.testing.assert_allclose(blurred.sum((0, 1)), 1, atol=1e-4)  # rounding of 1681 pixels


@pytest.mark.parametrize("half", [None, "left"])
@pytest.mark.parametrize("scene", ["edges", "smooth", "noise"])
def test_a_constant_stays_constant(scene, half):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:70, :60].astype(np.float32)
    radius = {
        "edges": np.where(x + 0.5 * y < 45, np.float32(-6), np.where(y < 30, 8, 1)),
        "smooth": x / 6 - 4 + np.sin(y / 9),
        "noise": 5 * rng.standard_normal((70, 60)),
    }[scene].astype(np.float32)
    image = np.full((70, 60, 3), (0.2, 0.9, 0.5), np.float32)
    np.testing.assert_allclose(defocus(image, radius, polygon(7), half), image, atol=1e-5)


@pytest.mark.parametrize(
    ("near", "far"), [(-5.0, 0.0), (0.0, 6.0), (-5.0, 4.0), (2.0, 6.0), (-4.5, -1.7)]
)
def test_two_layers_match_traced_rays(near, far):
    rng, side = np.random.default_rng(0), 56
    y, x = np.mgrid[:side, :side]
    full = np.ones((side, side), np.float32)
    surfaces = [
        Surface(texture(rng, side, 1), near * full, (x + 0.5 * y < 40).astype(np.float32)),
        Surface(texture(rng, side, 1), far * full, full),
    ]
    inside = slice(7, -7), slice(7, -7)  # beyond the borders the two go on differently
    error = np.abs(render(surfaces, disk()) - traced(surfaces))[inside]
    # Measured: 0.05 % where one layer is in focus, else 0.2 to 0.5 %: see `render`.
    assert error.mean() < (0.001 if 0 in (near, far) else 0.01)


def test_background_shows_through_a_blurred_edge_without_a_halo():
    side, full = 64, np.ones((64, 64), np.float32)
    x = np.mgrid[:side, :side][1]
    near, far = np.float32([0.9, 0.1, 0.1]), np.float32([0.1, 0.2, 0.8])
    image = np.where((x < 32)[..., None], near, far)
    known = [
        Surface(full[..., None] * near, -8 * full, (x < 32).astype(np.float32)),
        Surface(full[..., None] * far, 0 * full, full),
    ]
    blurred = defocus(image, np.where(x < 32, np.float32(-8), 0), disk())
    error = np.abs(blurred - traced(known))[8:-8, 10:-10]
    assert error.mean() < 0.01
    assert error.max() < 0.05  # a halo would be 0.35: half of what is near, cut at the edge
    # The other way round nothing of what is near and sharp leaks into what is far and blurred.
    blurred = defocus(image, np.where(x < 32, np.float32(0), 8), disk())
    np.testing.assert_allclose(blurred[:, 32:], image[:, 32:], atol=1e-5)


def test_a_slope_matches_traced_rays():
    rng, side, slope = np.random.default_rng(0), 96, 0.08
    image = texture(rng, side, 1)
    x = np.arange(side, dtype=np.float32)
    radius = np.broadcast_to(slope * (x - side / 2), (side, side)).astype(np.float32)
    rays = 1000
    distance, angle = np.sqrt((np.arange(rays) + 0.5) / rays), np.arange(rays) * 2.39996323
    want = np.zeros_like(image)
    rows = np.arange(side)[:, None]
    for u, v in zip(distance * np.cos(angle), distance * np.sin(angle), strict=True):
        # The ray through (u, v) sees the place p whose p + radius(p) * u is the pixel.
        column = (x + slope * side / 2 * u) / (1 + slope * u)
        row = rows - slope * (column - side / 2) * v
        columns = np.clip(np.rint(column), 0, side - 1).astype(int)
        want += image[np.clip(np.rint(row), 0, side - 1).astype(int), columns] / rays
    error = np.abs(defocus(image, radius, disk()) - want)[8:-8, 8:-8]
    assert error.mean() < 0.004  # measured: 0.26 %, of the slices' steps and the rays' number
