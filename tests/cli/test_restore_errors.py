"""`vitdeblur restore`: errors before and during the work."""

import resource
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.restored import PHOTO, names, pixels, refused
from tests.small_model import small_pretrained
from vitdeblur_jax import (
    deblur,
    save_pretrained,
)
from vitdeblur_jax.cli.main import main
from vitdeblur_jax.inference import deblurring, restore_files


def test_results_that_exist_are_overwritten_only_by_force(vitdeblur, photo, sharp):
    Path("photo_restored.png").write_text("precious")
    assert "photo_restored.png exists; --force overwrites it" in refused(vitdeblur("photo.png"))
    assert Path("photo_restored.png").read_text() == "precious"
    assert vitdeblur("photo.png", "--force")[0] == 0
    np.testing.assert_array_equal(pixels("photo_restored.png"), sharp)


def test_an_image_can_replace_itself(vitdeblur, photo, sharp):
    assert "photo.png exists" in refused(vitdeblur("photo.png", "-o", "photo.png"))
    np.testing.assert_array_equal(pixels("photo.png"), PHOTO)
    assert vitdeblur("photo.png", "-o", "photo.png", "--force")[0] == 0
    np.testing.assert_array_equal(pixels("photo.png"), sharp)


def test_skip_existing_is_refused_for_results_in_place(vitdeblur, photo):
    said = refused(vitdeblur("photo.png", "-o", "photo.png", "--skip-existing"))
    assert "photo.png would replace its own input" in said
    np.testing.assert_array_equal(pixels("photo.png"), PHOTO)


def test_a_result_cannot_overwrite_another_input(vitdeblur, photo):
    Image.fromarray(PHOTO).save("photo_restored.png")
    said = refused(vitdeblur("photo.png", "./photo_restored.png", "--force"))
    assert "photo_restored.png is also an input" in said
    np.testing.assert_array_equal(pixels("photo_restored.png"), PHOTO)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["missing.png"], "missing.png: there is no such file"),
        (["n" * 300], "there is no such file"),
        (["empty folder", "-o", "new"], "no images in empty folder"),
        (["empty folder"], "is a folder; name a folder for the results with -o"),
        (["photo.png", "-o", "photo.gif"], "photo.gif: an image ends in one of .png"),
        (["photo.png", "-o", "new"], "a folder ends in /"),
        (["photo.png", "-o", "new/a.png"], "there is no folder new"),
        (["photo.png", "-o", "text/"], "text/ cannot be created"),
        (["photo.png", "-o", "text/new/"], "text/new/ cannot be created"),
        (["photo.png", "text", "-o", "a.png"], "a.png has the ending of an image"),
        (["photo.png", "text", "-o", "-"], "standard output takes one image"),
        (["photo.png", "./photo.png"], "photo.png and photo.png would both be written to"),
        (
            ["photo.png", "empty folder/../photo.png", "-o", "new"],
            "would both be written to new/photo.png",
        ),
        (["photo.png", "--checkpoint", "nothing"], "there is no checkpoint 'nothing'"),
        (["photo.png", "--checkpoint", "text"], "text"),
        (["photo.png", "--checkpoint", "empty folder"], "empty folder is not a checkpoint folder"),
        (["photo.png", "--batch-size", "0"], "batch size is 0; it must be 1 or more"),
        (["photo.png", "--strength", "1.5"], "strength is 1.5; it must be between 0 and 1"),
        (["photo.png", "--strength", "nan"], "strength is nan; it must be between 0 and 1"),
        (["photo.png", "--uncertainty", "map.png"], "add --self-ensemble"),
        (["photo.png", "--change", "map.gif"], "map.gif: a map ends in one of .png"),
        (["photo.png", "--change", "new/map.png"], "new/map.png: there is no folder new"),
        (["photo.png", "--change", "photo.png"], "photo.png names two files"),
        (["photo.png", "--change", "photo_restored.png"], "names two files"),
        (
            ["photo.png", "text", "--change", "map.png"],
            "map.png: a map is of one image, and there are 2",
        ),
        (
            ["photo.png", "--self-ensemble", "--change", "a.png", "--uncertainty", "./a.png"],
            "./a.png names two files",
        ),
    ],
)
def test_an_invalid_command_is_one_error_line(vitdeblur, photo, arguments, expected):
    Image.fromarray(PHOTO).save("photo.ppm")
    Path("empty folder").mkdir()
    Path("text").write_text("text")
    assert expected in refused(vitdeblur(*arguments))
    assert set(names()) <= {"photo.png", "photo.ppm", "empty folder", "text", "new"}
    assert not Path("new").exists()


def test_an_invalid_command_creates_no_output_folder(vitdeblur, photo):
    for wrong in (["--checkpoint", "nothing"], ["--strength", "2"], ["--batch-size", "0"]):
        refused(vitdeblur("photo.png", "-o", "new/", *wrong))
    assert names() == ["photo.png"]


def test_a_dot_in_a_name_is_not_always_an_ending(vitdeblur, photo):
    photo.rename("IMG.2024-05-01")
    assert vitdeblur("IMG.2024-05-01")[0] == 0
    assert names() == ["IMG.2024-05-01", "IMG.2024-05-01_restored.png"]


def test_skip_existing_keeps_results_of_another_process(vitdeblur, photo, monkeypatch):
    """The other process writes both results while this one restores the first image."""
    Image.fromarray(PHOTO).save("b.png")

    def by_another(*arguments, **options):
        for name in ("photo.png", "b.png"):
            Path("new", name).write_text("by another")
        return deblur(*arguments, **options)

    monkeypatch.setattr(restore_files, "deblur", by_another)
    arguments = ["photo.png", "b.png", "-o", "new", "--skip-existing"]
    status, said = vitdeblur(*arguments)
    done = ["new/photo.png is done already", "new/b.png is done already"]
    assert (status, said.splitlines()[1:]) == (0, done)
    for name in names("new"):
        assert Path("new", name).read_text() == "by another"
        Path("new", name).unlink()
    status, said = vitdeblur(*arguments[:-1])
    assert status == 2
    assert "another process has written new/photo.png in the meantime" in said


@pytest.mark.parametrize("missing", ["photo_restored.png", "change.png"])
def test_skip_existing_completes_an_image_and_its_map(vitdeblur, photo, missing):
    arguments = ["photo.png", "--change", "change.png", "--skip-existing"]
    assert vitdeblur(*arguments)[0] == 0
    whole = Path(missing).read_bytes()
    assert vitdeblur(*arguments) == (0, "1 of 1 are done already\n")
    Path(missing).unlink()
    (kept,) = {"photo_restored.png", "change.png"} - {missing}
    Path(kept).write_text("kept")
    status, said = vitdeblur(*arguments)
    assert status == 0
    assert f"written: {missing}" in said
    assert f"{kept} is done already" in said
    assert Path(missing).read_bytes() == whole
    assert Path(kept).read_text() == "kept"


def test_a_map_that_is_too_long_for_its_format_is_refused_before_any_work(vitdeblur, photo):
    Image.fromarray(np.zeros((1, 17_000, 3), np.uint8)).save("long.png")
    status, said = vitdeblur("long.png", "--change", "map.webp")
    assert status == 1 or status == 2
    assert "error: map.webp: WEBP supports at most 16383 pixels per side" in said
    assert names() == ["long.png", "photo.png"]


def test_control_characters_in_names_are_escaped(vitdeblur, photo):
    hostile = "a\x1b[31m\nerror: b\udcff.png"
    photo.rename(hostile)
    status, said = vitdeblur(hostile, "missing\x1b]0;title\x07")
    assert status == 2
    assert said == "error: missing\\x1b]0;title\\x07: there is no such file\n"
    said = vitdeblur(hostile)[1]
    shown = "a\\x1b[31m\\nerror: b\\udcff"
    assert said == f"{shown}.png (1 of 1)\nwritten: {shown}_restored.png\n"


def test_a_nul_character_in_a_path_is_one_error_line(vitdeblur, photo):
    for arguments in (["a\0b"], ["photo.png", "-o", "a\0b.png"], ["photo.png", "-o", "a\0b/"]):
        refused(vitdeblur(*arguments))


def test_an_image_too_large_for_memory_does_not_stop_the_others(vitdeblur, photo, monkeypatch):
    Image.fromarray(PHOTO).save("b.png")

    def too_large(*arguments, **options):
        monkeypatch.undo()
        raise MemoryError("Unable to allocate 9 GiB")

    monkeypatch.setattr(restore_files, "deblur", too_large)
    folder = str(photo.parent)
    status, said = vitdeblur(f"{folder}/photo.png", f"{folder}/b.png", "-o", f"{folder}/new")
    assert status == 2
    assert "photo.png: this machine has too little memory (Unable to allocate 9 GiB)\n" in said
    assert names(f"{folder}/new") == ["b.png"]


def test_a_stride_that_leaves_gaps_is_an_error(vitdeblur, photo, checkpoint, capsys):
    assert main(["photo.png", "--checkpoint", checkpoint, "--stride", "37"]) == 2
    assert capsys.readouterr().err.startswith("error: stride is 37; the feature map of a window")


def test_a_stride_that_repeats_the_token_grid_is_noted(photo, checkpoint, capsys, monkeypatch):
    monkeypatch.chdir(photo.parent)
    assert main(["photo.png", "--checkpoint", checkpoint, "--stride", "28"]) == 0
    note = "note: stride 28 is a multiple of 4, the step between tokens: the token grids of all"
    assert capsys.readouterr().err.startswith(note)


def test_a_network_with_two_views_is_refused(vitdeblur, photo):
    save_pretrained(small_pretrained(views=2), "dual.safetensors")
    said = refused(vitdeblur("photo.png", "--checkpoint", "dual.safetensors"))
    assert "dual.safetensors needs a left and a right view" in said


def test_broken_images_do_not_stop_the_good_ones(vitdeblur, photo, sharp):
    data = photo.read_bytes()
    for name, content in {"b": b"", "c": data[: len(data) // 2], "d": b"once upon a time"}.items():
        Path(f"{name}.png").write_bytes(content)
    Image.fromarray(PHOTO).save("e.png")
    status, said = vitdeblur("photo.png", "b.png", "c.png", "d.png", "e.png", "-o", "new")
    assert status == 2
    assert names("new") == ["e.png", "photo.png"]
    np.testing.assert_array_equal(pixels("new/e.png"), sharp)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(said.splitlines()) == 5 + 3 + 2 + 1  # one for each, errors, what was written
    assert said.endswith("\n3 of 5 could not be restored; see the errors above\n")
    for line, expected in zip(
        errors, ["b.png: the file is empty", "c.png: ", "d.png: not an"], strict=True
    ):
        assert line.startswith(f"error: {expected}")


def test_a_full_disk_leaves_the_old_file(vitdeblur, photo):
    """A limit on the file size fails like a full disk: during a write."""
    Path("photo_restored.png").write_text("precious")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        status, said = vitdeblur("photo.png", "--force")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 2
    assert said.splitlines()[1].startswith("error: photo_restored.png: cannot be written (")
    assert len(said.splitlines()) == 2
    assert Path("photo_restored.png").read_text() == "precious"
    assert names() == ["photo.png", "photo_restored.png"]


def test_ctrl_c_leaves_nothing_half_written(vitdeblur, photo, monkeypatch):
    def interrupted(*_, **__):
        yield np.zeros((5, PHOTO.shape[1], 3), np.float32)
        raise KeyboardInterrupt

    monkeypatch.setattr(deblurring, "restore", interrupted)
    assert vitdeblur("photo.png") == (130, "photo.png (1 of 1)\ninterrupted\n")
    assert names() == ["photo.png"]
