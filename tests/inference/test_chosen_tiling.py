"""Tiles on request, and tiles because memory would not suffice."""

from types import SimpleNamespace

import flax.linen as nn
import numpy as np
import pytest

from vitdeblur_jax import UserError, deblur
from vitdeblur_jax.checkpoints.pretrained import Pretrained
from vitdeblur_jax.inference import chosen_tiling
from vitdeblur_jax.inference.chosen_tiling import (
    check_options,
    count_tiles,
    tell_of_tiling,
    tiling_for,
)
from vitdeblur_jax.inference.restoration import usual_batch_size
from vitdeblur_jax.models.network import initial_variables
from vitdeblur_jax.models.tilings import HaloTiles, WholeImage
from vitdeblur_jax.utils import memory


class _Blur(nn.Module):
    """Takes the whole image, though its receptive field would fit into the halo of tiles."""

    tiling: WholeImage | HaloTiles | None = WholeImage(4)

    @nn.compact
    def __call__(self, image):
        return nn.Conv(3, (5, 5))(image)


@pytest.fixture(scope="module")
def blur() -> Pretrained:
    return Pretrained(_Blur(), initial_variables(_Blur(), 0), "random")


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (210, 350, 3), np.uint8)


def test_tiles_on_request(blur, image):
    whole = deblur(image, blur)
    done = []
    tiled = deblur(image, blur, tile=40, on_tiles=done.append)
    np.testing.assert_allclose(tiled.astype(int), whole.astype(int), atol=1)
    assert tiling_for(blur.model, 210, 350, 40) == HaloTiles(64, 4, 40)
    assert sum(done) == count_tiles(blur.model, 210, 350, tile=40) == 3 * 6


def test_a_tile_replaces_that_of_the_network():
    network = _Blur(HaloTiles(halo=8, multiple=4, tile=512))
    assert tiling_for(network, 210, 350) == network.tiling
    assert tiling_for(network, 210, 350, 64) == HaloTiles(8, 4, 64)


@pytest.mark.parametrize(("free", "is_whole"), [(10**4, False), (10**12, True), (None, True)])
def test_an_image_that_needs_too_much_memory_is_tiled(monkeypatch, capsys, blur, free, is_whole):
    monkeypatch.setattr(chosen_tiling, "_SURELY_FITS", 1000)
    monkeypatch.setattr(chosen_tiling, "free_bytes", lambda device: free)
    chosen_tiling._tile_that_fits.cache_clear()
    for _ in range(2):
        tiling = tiling_for(blur.model, 210, 350)
        assert tiling == (blur.model.tiling if is_whole else HaloTiles(multiple=4))
    said = capsys.readouterr().err
    assert said.count("note: _Blur takes the whole image; 350 x 210 pixels need") == (not is_whole)
    assert said.count("\n") <= 1
    assert tiling_for(blur.model, 10, 100) == blur.model.tiling


@pytest.mark.parametrize(("tile", "side"), [(None, 512 + 2 * 64), (100, 100 + 2 * 64)])
def test_a_network_without_a_tiling_gets_a_note(capsys, tile, side):
    tell_of_tiling(_Blur(None), None, tile)
    said = capsys.readouterr().err
    assert f"images larger than {side} pixels are restored in tiles with a halo of 64" in said


@pytest.mark.parametrize(
    ("tiling", "platform", "count"),
    [(HaloTiles(), "cpu", 1), (HaloTiles(), "gpu", 8), (WholeImage(4), "gpu", 1)],
)
def test_tiles_that_save_memory_are_restored_one_by_one(tiling, platform, count):
    assert usual_batch_size(_Blur(tiling), SimpleNamespace(platform=platform)) == count


def test_wrong_tiles_are_refused(small, blur):
    with pytest.raises(UserError, match="overlapping windows of 42 pixels; leave the tile out"):
        check_options(small.model, None, None, 64)
    with pytest.raises(UserError, match="tile is 0"):
        check_options(blur.model, None, None, 0)


def test_free_memory(monkeypatch, tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal:  9 kB\nMemAvailable:    3000 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    cpu = SimpleNamespace(platform="cpu", memory_stats=lambda: None)
    assert memory.free_bytes(cpu) == 3000 * 1024
    (tmp_path / "memory.max").write_text("2000000\n")
    (tmp_path / "memory.current").write_text("500000\n")
    (tmp_path / "memory.stat").write_text("anon 90000\ninactive_file 300000\n")
    assert memory.free_bytes(cpu) == 1800000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_bytes(cpu) == 3000 * 1024
    (tmp_path / "meminfo").unlink()
    assert memory.free_bytes(cpu) is None
    stats = {"bytes_limit": 10, "bytes_in_use": 4}
    assert memory.free_bytes(SimpleNamespace(platform="gpu", memory_stats=lambda: stats)) == 6
    assert memory.free_bytes(SimpleNamespace(platform="tpu", memory_stats=lambda: None)) is None
