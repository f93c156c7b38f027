"""Which images of a folder are listed, and what is said of the others."""

import importlib.util
import re

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from tests.data.image_io.made_up_files import dng
from vitdeblur_jax.data.image_io import (
    READABLE_SUFFIXES,
    DecodedImage,
    left_out,
    list_images,
    read_image,
    size_of,
    write_image,
)
from vitdeblur_jax.data.image_io.formats import FORMATS, RAW_SUFFIXES
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
    path = tmp_path / f"photo{suffix}"
    if suffix in RAW_SUFFIXES:
        path.write_bytes(dng(np.zeros((40, 60), np.uint16)))
    elif FORMATS.get(suffix) in ("HEIC", "JXL"):
        write_image(DecodedImage(np.zeros((40, 60, 3), np.uint8)), path)
    else:
        mode = {".pgm": "L", ".pbm": "1", ".gif": "P"}.get(suffix, "RGB")
        Image.new(mode, (60, 40)).save(path)
    assert list_images(tmp_path) == [path]
    assert read_image(path).pixels.shape == (40, 60, 3)
    assert size_of(path) == (60, 40)


@pytest.mark.parametrize("suffix", [".heic", ".jxl", ".avif", ".cr2"])
def test_a_missing_codec_is_named(tmp_path, monkeypatch, suffix):
    package = {".heic": r"pip install 'vitdeblur_jax\[heic\]'", ".cr2": r"vitdeblur_jax\[raw\]"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    data = {
        ".heic": b"\0\0\0\x14ftypheic\0\0\0\0heic",
        ".jxl": imagecodecs.jpegxl_encode(np.zeros((8, 8, 3), np.uint8)),
        ".avif": b"\0\0\0\x14ftypavif\0\0\0\0avif",
        ".cr2": dng(np.zeros((40, 60), np.uint16)),
    }[suffix]
    (tmp_path / f"photo{suffix}").write_bytes(data)
    advice = package.get(suffix, "pip install --upgrade")
    with pytest.raises(UserError, match=advice):
        read_image(tmp_path / f"photo{suffix}")
    if suffix != ".cr2":
        with pytest.raises(UserError, match=advice):
            write_image(DecodedImage(np.zeros((8, 8, 3), np.uint8)), tmp_path / f"new{suffix}")
    else:
        assert left_out(tmp_path) == "" or re.search(advice, left_out(tmp_path))


def test_what_is_left_out_is_told_with_the_reason(tmp_path):
    touch(tmp_path, "a.png", "b.jfif")
    assert left_out(tmp_path) == ""
    touch(tmp_path, "1.PSD", "2.psd", "3.exr", "notes", ".hidden", "sub/c.png", "__MACOSX/._a")
    assert left_out(tmp_path) == (
        "left out: 4 files in unsupported formats (.psd, .exr, no extension), 1 folder"
    )
    assert left_out(tmp_path, recursive=True).endswith("(.psd, .exr, no extension)")
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
