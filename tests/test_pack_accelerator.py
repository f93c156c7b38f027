"""The pack for a GPU without a network."""

import numpy as np
import pytest
from PIL import Image

from tools.pack_accelerator import main, pack_photos
from vitdeblur_jax.data.image_io import list_images, read_rgb
from vitdeblur_jax.training.examples import spread


def smooth_image(number):
    rows, columns = np.mgrid[:40, :48]
    waves = [np.sin(rows / 9 + number), np.cos(columns / 7), np.sin((rows + columns) / 11)]
    return np.rint(127.5 + 50 * np.stack(waves, axis=-1)).astype(np.uint8)


def test_the_photos_are_nearly_the_same_and_the_same_ones_are_held_out(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(14):
        Image.fromarray(smooth_image(number)).save(tmp_path / f"photos/{number:02}.png")
    photos = list_images(tmp_path / "photos")
    size = pack_photos(photos, tmp_path / "pack")
    packed = list_images(tmp_path / "pack")
    assert size == sum(path.stat().st_size for path in packed)
    assert [path.stem for path in packed] == [path.stem for path in photos]
    held_out = [[p.read_bytes() for p in spread(paths, 12)] for paths in (photos, packed)]
    assert held_out[0] == held_out[1]
    encoded = [path for path in packed if path.suffix == ".jxl"]
    assert len(encoded) == 2
    for path in encoded:
        difference = read_rgb(path) - smooth_image(int(path.stem)).astype(float)
        assert np.sqrt((difference**2).mean()) < 3


@pytest.mark.parametrize(
    ("pack", "expected"),
    [("photos", "photos exists; name a new folder"), ("pack", "several images are named a;")],
)
def test_what_cannot_be_packed(tmp_path, monkeypatch, pack, expected):
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "a.jpg", "b.png"):
        (tmp_path / "photos" / name).touch()
    monkeypatch.setattr("sys.argv", ["pack", str(tmp_path / "photos"), str(tmp_path / pack)])
    with pytest.raises(SystemExit, match=expected):
        main()
    assert not (tmp_path / "pack").exists()
