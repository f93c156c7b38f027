"""Which images of a folder are listed, and what is said of the others."""

import pytest
from PIL import Image

from vitdeblur_jax.data.image_io import (
    READABLE_SUFFIXES,
    left_out,
    list_images,
    read_image,
)
from vitdeblur_jax.utils.errors import UserError


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def listed(folder, **options):
    paths = list_images(folder, **options)
    return [path.relative_to(folder).as_posix() for path in paths]


def test_list_images(tmp_path):
    touch(tmp_path, "b10.PNG", "b9.jpeg", "c.tif", ".hidden.png", "notes.txt", "d.gif")
    (tmp_path / "folder.png").mkdir()
    assert listed(tmp_path) == ["b9.jpeg", "b10.PNG", "c.tif", "d.gif"]
    (tmp_path / "empty").mkdir()
    expected = rf"^no images in {tmp_path}/empty: looked for \.png, \.jpg"
    with pytest.raises(UserError, match=expected):
        list_images(tmp_path / "empty")
    for name in ("missing", "notes.txt"):
        with pytest.raises(UserError, match=name):
            list_images(tmp_path / name)


@pytest.mark.parametrize("suffix", READABLE_SUFFIXES)
def test_every_ending_that_is_listed_is_read(tmp_path, suffix):
    mode = {".pgm": "L", ".pbm": "1", ".gif": "P"}.get(suffix, "RGB")
    Image.new(mode, (6, 5)).save(tmp_path / f"photo{suffix}")
    (path,) = list_images(tmp_path)
    assert read_image(path).pixels.shape == (5, 6, 3)


def test_what_is_left_out_is_told_with_the_reason(tmp_path):
    touch(tmp_path, "a.png", "b.jfif")
    assert left_out(tmp_path) == ""
    touch(tmp_path, "1.HEIC", "2.heic", "3.dng", "notes", ".hidden", "sub/c.png", "__MACOSX/._a")
    assert left_out(tmp_path) == (
        "left out: 4 files in unsupported formats (.heic, .dng, no extension), 1 folder"
    )
    assert left_out(tmp_path, recursive=True).endswith("(.heic, .dng, no extension)")
    for path in (tmp_path / "a.png", tmp_path / "b.jfif"):
        path.unlink()
    with pytest.raises(UserError, match=r"no images in .* \(left out: 4 files .* 1 folder\)$"):
        list_images(tmp_path)


def test_recursive_takes_the_folders_in_a_folder(tmp_path):
    touch(tmp_path, "z.png", "s10/a.png", "s9/b.png", "s9/inner/c.png")
    touch(tmp_path, "__MACOSX/._z.png", ".cache/d.png", "@eaDir/e.png")
    (tmp_path / "s9/loop").symlink_to(tmp_path)
    assert listed(tmp_path) == ["z.png"]
    assert listed(tmp_path, recursive=True) == [
        *("z.png", "s9/b.png", "s9/inner/c.png", "s10/a.png")
    ]


def test_a_broken_link_is_an_image_that_cannot_be_read_and_is_not_passed_over(tmp_path):
    touch(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to("nowhere")
    (tmp_path / "c.txt").symlink_to("nowhere")
    assert listed(tmp_path) == ["a.png", "b.png"]
    assert left_out(tmp_path) == "left out: 1 file in unsupported formats (.txt)"
    with pytest.raises(UserError, match=r"b\.png: cannot be read \(No such file"):
        read_image(tmp_path / "b.png")
