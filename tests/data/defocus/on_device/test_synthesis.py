"""Synthesis on the device: the distributions of NumPy's draws, and the camera of the host."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from vitdeblur_jax.data.defocus import apertures, camera, scenes, synthesis, thin_lens
from vitdeblur_jax.data.defocus.on_device import camera as device_camera
from vitdeblur_jax.data.defocus.on_device.apertures import Aperture, point_image
from vitdeblur_jax.data.defocus.on_device.scenes import (
    Window,
    draw_aperture,
    draw_radii,
    draw_radius_map,
)
from vitdeblur_jax.data.defocus.on_device.synthesis import synthesize
from vitdeblur_jax.data.defocus.settings import SynthesisSettings
from vitdeblur_jax.data.srgb import linear_to_srgb, srgb_to_linear

SIDE, DRAWS = 96, 400
SETTINGS = SynthesisSettings(largest_radius=12.0)


@pytest.fixture(scope="module")
def sharp() -> np.ndarray:
    noise = np.random.default_rng(7).standard_normal((SIDE, SIDE, 3))
    noise = ndimage.gaussian_filter(noise, (2, 2, 0))
    return np.clip(128 + 80 * noise / noise.std(), 0, 255).astype(np.uint8)


def in_light(sharp) -> jax.Array:
    return jax.device_put(srgb_to_linear(sharp / 255))


def same_distribution(mine, known) -> None:
    """Two samples of one distribution differ by more in one of 1000 tests."""
    mine, known = (np.round(np.ravel(values).astype(np.float64), 4) for values in (mine, known))
    assert stats.ks_2samp(mine, known).pvalue > 1e-3


def test_radii_are_drawn_as_in_numpy():
    rng = np.random.default_rng(0)
    known = [scenes._draw_radius(SETTINGS, rng) for _ in range(4000)]
    mine = draw_radii(jax.random.key(0), 4000, SETTINGS)
    same_distribution(mine, known)
    for low, high in ((0, 0.5), (0.5, 8), (8, 12)):
        share = [np.mean((np.abs(r) >= low) & (np.abs(r) < high)) for r in (np.array(mine), known)]
        assert share[0] == pytest.approx(share[1], abs=0.03)


def test_apertures_are_drawn_as_in_numpy():
    rng, reach = np.random.default_rng(0), 6.2
    settings = dataclasses.replace(SETTINGS, falloff=(-0.5, 1.0))
    known = [
        apertures.point_image(scenes.draw_aperture(settings, rng), reach) for _ in range(DRAWS)
    ]
    keys = jax.random.split(jax.random.key(1), DRAWS)
    drawn = jax.vmap(lambda key: draw_aperture(key, settings))(keys)
    kernels = jax.jit(jax.vmap(lambda lens: point_image(lens, reach, reach)))(Aperture(*drawn))
    places = np.arange(13) - 6
    for trait in (
        lambda kernel: 1 / np.max(kernel),  # area and falloff
        lambda kernel: np.sum(kernel, 0) @ places**2,  # extent across
        lambda kernel: places @ np.array(kernel) @ places,  # direction
    ):
        same_distribution([trait(k) for k in np.array(kernels)], [trait(k) for k in known])
    kinds = np.array(drawn.blades) > 0, np.array(drawn.offset) > 0
    assert [kind.mean() for kind in kinds] == pytest.approx([0.2, 0.2], abs=0.06)
    assert set(np.array(drawn.blades).tolist()) == {0, 5, 6, 7, 8, 9}
    for kind in kinds:  # the falloff does not depend on the shape
        assert np.corrcoef(kind, drawn.falloff)[0, 1] == pytest.approx(0, abs=0.2)


def traits(radius: np.ndarray) -> list[float]:
    """Returns radii, edges and the number of distinct radii: few without a tilt."""
    edges = thin_lens._far_sides(radius).mean()
    few = min(len(np.unique(radius)), 30)
    return [radius[5, 9], radius[50, 60], radius.mean(), radius.std(), np.ptp(radius), edges, few]


def test_scenes_are_drawn_as_in_numpy(sharp):
    rng = np.random.default_rng(0)
    known = [traits(scenes.draw_radius_map(sharp, SETTINGS, rng)) for _ in range(DRAWS)]
    colors = sharp.reshape(SIDE // 4, 4, SIDE // 4, 4, 3).mean((1, 3)) / 255
    whole = Window(jnp.arange(SIDE), jnp.arange(SIDE))

    def draw(key):
        return draw_radius_map(key, jnp.float32(colors), SETTINGS, (SIDE, SIDE), whole)

    maps = jax.jit(lambda keys: jax.lax.map(draw, keys))(jax.random.split(jax.random.key(0), DRAWS))
    mine = [traits(radius) for radius in np.asarray(maps)]
    for values in zip(np.transpose(mine), np.transpose(known), strict=True):
        same_distribution(*values)


@pytest.mark.parametrize(("quality", "corner"), [(70, (0, 0)), (85, (5, 35)), (97, (24, 1))])
def test_jpeg_is_that_of_libjpeg(sharp, quality, corner):
    part = sharp[: 5 * 8 + 3, : 7 * 8 + 2]
    want = camera.through_jpeg(part, quality, corner).astype(int)
    compress = jax.jit(device_camera.through_jpeg)
    found = np.asarray(compress(jax.device_put(part), quality, jax.device_put(np.array(corner))))
    difference = found - want
    assert found.shape == part.shape
    # What differs is the rounding of its integer arithmetic.
    assert np.abs(difference).mean() < 0.25 * np.abs(want - part).mean()
    assert np.abs(difference.mean((0, 1))).max() < 0.15


def test_highlights_and_noise_are_those_of_numpy(sharp):
    bright = np.clip(sharp.astype(int) + 120, 0, 255).astype(np.uint8)
    found = device_camera.extend_highlights(in_light(bright), 3.0)
    np.testing.assert_allclose(found, camera.extend_highlights(bright, 3.0), rtol=1e-4, atol=1e-6)
    light = np.linspace(0, 1, 3 * 20000, dtype=np.float32).reshape(200, 100, 3)
    mine = device_camera.add_noise(jax.random.key(0), jax.device_put(light), 2 / 255) - light
    known = camera.add_noise(light, 2 / 255, np.random.default_rng(0)) - light
    for part in (slice(0, 20), slice(180, 200)):  # the noise grows with the light
        same_distribution(mine[part], known[part])


CLEAN = SynthesisSettings(
    usual_radius=(2.0, 4.0), largest_radius=5.0, disk_share=1.0, polygon_share=0.0, dual_pixel=True
)
CLEAN = dataclasses.replace(CLEAN, noise=0.0, jpeg_share=0.0, tone=(0.8, 0.8))


@pytest.mark.slow
def test_pairs_are_what_numpy_renders_of_the_scene(sharp):
    pair_of = jax.jit(lambda key, light: synthesize(key, light, CLEAN))
    for seed in range(3):
        blurred, same, radius = map(np.asarray, pair_of(jax.random.key(seed), in_light(sharp)))
        np.testing.assert_array_equal(same, sharp)
        light = np.asarray(in_light(sharp))
        views = [
            thin_lens.defocus(light**0.8, radius, apertures.disk(), half)
            for half in ("left", "right")
        ]
        light = np.clip(np.concatenate(views, -1), 0, 1) ** (1 / 0.8)
        want = 255 * linear_to_srgb(light)
        assert np.abs(blurred - want).max() < 0.51


@pytest.mark.slow
def test_tones_are_drawn_as_in_numpy():
    changes = {"usual_radius": (3.0, 3.0), "smooth_share": 0.0, "most_layers": 1}
    settings = dataclasses.replace(CLEAN, dual_pixel=False, tone=(0.7, 1.1), **changes)
    rows, columns = np.mgrid[:24, :24]
    board = np.repeat(255 * ((rows + columns) % 2).astype(np.uint8)[..., None], 3, -1)
    known = [
        synthesis.synthesize(board, settings, np.random.default_rng(seed))["blurred"][12, 12, 0]
        for seed in range(DRAWS)
    ]
    light = in_light(board)
    middle = jax.jit(
        partial(jax.lax.map, lambda key: synthesize(key, light, settings).blurred[12, 12, 0])
    )
    mine = np.asarray(middle(jax.random.split(jax.random.key(0), DRAWS)))
    same_distribution(mine, known)
    assert np.ptp(mine) > 20


@pytest.mark.slow
@pytest.mark.parametrize("corner", [(40, 0), (20, 33)])
def test_a_part_is_cut_out_of_the_whole(sharp, corner):
    settings = dataclasses.replace(CLEAN, smooth_share=0.0, most_layers=1)

    @jax.jit
    def both(key):
        part = synthesize(key, in_light(sharp), settings, corner, (44, 36))
        return part, synthesize(key, in_light(sharp), settings)

    for seed in range(3):
        part, whole = both(jax.random.key(seed))
        whole = [value[corner[0] : corner[0] + 44, corner[1] : corner[1] + 36] for value in whole]
        np.testing.assert_array_equal(part.sharp, whole[1])
        np.testing.assert_allclose(part.radius, whole[2], atol=1e-5)
        # A tilted plane's slices depend a little on how much of it is seen.
        difference = np.abs(part.blurred.astype(int) - whole[0])
        assert difference.max() <= 2
        assert difference.mean() < 0.3
