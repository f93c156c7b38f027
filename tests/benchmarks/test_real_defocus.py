"""Pairs whose defocus is known."""

import numpy as np
import pytest
from scipy import ndimage

from benchmarks import real_defocus
from benchmarks.real_defocus import best_fit, block_shift, fit
from vitdeblur_jax.data.defocus.apertures import disk, point_image
from vitdeblur_jax.data.srgb import linear_to_srgb, srgb_to_linear


def test_the_defocus_of_a_pair_is_found(monkeypatch):
    settings = {"RADII": (0, 3, 4, 5, 6), "TONES": (0.8,), "FALLOFFS": (-0.5, 1.0)}
    for name, values in settings.items():
        monkeypatch.setattr(real_defocus, name, values)
    noise = np.random.default_rng(0).standard_normal((64, 72, 3))
    noise = ndimage.gaussian_filter(noise, (1, 1, 0))
    sharp = np.clip(0.5 + 0.25 * noise / noise.std(), 0, 1).astype(np.float32)
    kernel = point_image(disk()._replace(falloff=1.0), 5.0)[..., None]
    light = ndimage.convolve(srgb_to_linear(sharp) ** 0.8, kernel, mode="reflect")
    real = linear_to_srgb(light ** (1 / 0.8)).astype(np.float32)
    plain = fit(real, sharp)
    found = best_fit(real, sharp, plain)
    assert (found.tone, found.falloff, found.radius) == (0.8, 1.0, 5.0)
    assert found.psnr > 60
    assert plain.psnr < found.psnr - 3
    assert fit(sharp, sharp).radius == 0


@pytest.mark.parametrize("side", [100, 300])
def test_the_shift_between_images(side):
    noise = np.random.default_rng(0).standard_normal((side, side))
    image = ndimage.gaussian_filter(noise, 3)
    moved = ndimage.shift(image, (0.3, -0.4), order=5, mode="reflect")
    assert block_shift(image, moved) == pytest.approx(0.5, abs=0.06)
