"""Batches computed on the device: crops, flips, views; tests/training/test_device_data.py."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.made_up_data import write_png
from vitdeblur_jax.data import device_synthesis
from vitdeblur_jax.data.defocus.settings import SynthesisSettings
from vitdeblur_jax.data.device_synthesis import (
    Recipe,
    check_memory,
    place_images,
    random_flips,
    scene_shape,
    synthetic_device_batches,
)
from vitdeblur_jax.data.image_io import list_images
from vitdeblur_jax.distributed.sharding import batch_sharded, local_mesh
from vitdeblur_jax.utils.errors import UserError

CROP, BATCH = 16, 4
SIZES = (40, 60), (52, 33), (24, 25)  # height, width
SETTINGS = SynthesisSettings(usual_radius=(1.0, 3.0), largest_radius=3.0, jpeg_share=0.0)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Images whose pixels tell their row, their column and their image."""
    folder = tmp_path_factory.mktemp("images")
    for number, size in enumerate(SIZES):
        rows, columns = np.indices(size)
        pixels = np.stack((100 + rows, 100 + columns, np.full(size, 50 * number)), axis=-1)
        write_png(folder / f"{number}.png", pixels.astype(np.uint8))
    return list_images(folder)


@pytest.fixture(scope="module")
def placed(files):
    return place_images(files, local_mesh())


def batches(placed, first_step=0, settings=SETTINGS, seed=0):
    images, smallest = placed
    recipe = Recipe(settings, seed, CROP, scene_shape(smallest, CROP), True, True)
    order = list(itertools.islice(itertools.cycle(range(3)), first_step * BATCH % 3, 99))
    sharding = batch_sharded(local_mesh())
    return synthetic_device_batches(images, order, recipe, BATCH, sharding, first_step)


@pytest.mark.slow
def test_crops_are_uniform_and_another_seed_gives_others(placed):
    first = [np.asarray(batch["sharp"]) for batch in itertools.islice(batches(placed), 24)]
    other = next(batches(placed, seed=1))
    assert (np.asarray(other["sharp"]) != first[0]).any()
    corners = np.concatenate(first).min((1, 2)) - [100, 100, 0]
    for number, size in enumerate(SIZES):
        mine = corners[corners[:, 2] == 50 * number, :2]
        limits = np.array(size) - CROP
        assert (mine.min(0) <= 0.2 * limits).all()
        assert (mine.max(0) >= 0.8 * limits).all()


@pytest.mark.slow
@pytest.mark.parametrize("rows", [3, 16])  # of a batch of 4
def test_rows_computed_at_once_are_those_of_one_after_the_other(placed, monkeypatch, rows):
    usual = jax.device_get(next(batches(placed)))
    one_by_one = jax.lax.map

    def at_once(function, places, batch_size):
        assert batch_size is None  # on a CPU
        return one_by_one(function, places, batch_size=min(rows, len(places)))

    with monkeypatch.context() as patch:
        patch.setattr(jax.lax, "map", at_once)
        device_synthesis._compiled.cache_clear()
        together = jax.device_get(next(batches(placed)))
    device_synthesis._compiled.cache_clear()
    np.testing.assert_array_equal(together["sharp"], usual["sharp"])
    difference = np.abs(together["blurred"].astype(int) - usual["blurred"])
    assert difference.max() <= 1  # rounding
    assert difference.mean() < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"dual_pixel": True}, {"jpeg_share": 1.0}, {"most_layers": 1}])
def test_views_and_compression_reach_the_batch(placed, change):
    settings = replace(SETTINGS, **change)
    batch, usual = next(batches(placed, settings=settings)), next(batches(placed))
    assert batch["blurred"].shape[-1] == 3 + 3 * settings.dual_pixel
    assert (np.asarray(batch["blurred"][..., :3]) != np.asarray(usual["blurred"])).any()
    np.testing.assert_array_equal(batch["sharp"], usual["sharp"])


@pytest.mark.parametrize(
    ("channels", "vertical_flip", "quarter_turns", "count"),
    [(6, False, False, 2), (6, True, False, 4), (3, True, True, 8)],
)
def test_flips_are_symmetries_and_swap_the_views(channels, vertical_flip, quarter_turns, count):
    rng = np.random.default_rng(0)
    pair = {name: rng.integers(256, size=(4, 4, channels), dtype=np.uint8) for name in "ab"}

    def flip(key):
        options = {"vertical_flip": vertical_flip, "quarter_turns": quarter_turns}
        images = jax.device_put(pair)
        return random_flips(key, images, horizontal_flip=True, **options)

    found = jax.device_get(jax.jit(jax.vmap(flip))(jax.random.split(jax.random.key(0), 64)))
    found = {(a.tobytes(), b.tobytes()) for a, b in zip(found["a"], found["b"], strict=True)}
    assert len(found) == count  # both images alike
    mirrored = [np.roll(image[:, ::-1], channels // 6 * 3, axis=-1) for image in pair.values()]
    for images in (pair.values(), mirrored):
        assert tuple(np.ascontiguousarray(image).tobytes() for image in images) in found


def test_without_flips_images_stay_as_they_are():
    pair = {"a": jnp.arange(48, dtype=jnp.uint8).reshape(4, 4, 3)}
    options = {"horizontal_flip": False, "vertical_flip": False, "quarter_turns": False}
    for seed in range(8):
        found = random_flips(jax.random.key(seed), pair, **options)
        np.testing.assert_array_equal(found["a"], pair["a"])


def test_images_beyond_device_memory_are_told(files, monkeypatch):
    check_memory(files, "data.synthesis.device")
    total = 3 * sum(height * width for height, width in SIZES)
    monkeypatch.setattr(device_synthesis, "MOST_BYTES", total - 1)
    for _ in range(2):
        with pytest.raises(UserError, match=r"data\.synthesis\.device: the 3 training images take"):
            check_memory(files, "data.synthesis.device")
        monkeypatch.setattr(device_synthesis, "size_of", lambda path: None)  # not in the header


def test_scenes_fit_into_all_images_and_a_crop_that_does_not_is_told():
    assert scene_shape((600, 100), 64) == (480, 100)
    assert scene_shape((600, 900), 300) == (600, 600)
    with pytest.raises(UserError, match="crop is 64 pixels, but a training image has a side of 60"):
        scene_shape((600, 60), 64)
