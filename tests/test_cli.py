"""The command `vitdeblur`, as a user calls it."""

import io
import re
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import imagecodecs
import jax
import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageCms

from tests.small_model import small_pretrained
from vitdeblur_jax import (
    Pretrained,
    UserError,
    deblur,
    load_pretrained,
    save_pretrained,
)
from vitdeblur_jax.cli.main import _parse as parse_command
from vitdeblur_jax.cli.main import main
from vitdeblur_jax.evaluation.scoring import parse_method
from vitdeblur_jax.inference import deblurring, restore_files

STRIDE = 30
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ORIENTATION, MAKE = 274, 271
PHOTO = skimage.data.astronaut()[100:145, 200:250]


@pytest.fixture(scope="module")
def checkpoint(small, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
    save_pretrained(small, path)
    return str(path)


@pytest.fixture(scope="module")
def pretrained(checkpoint) -> Pretrained:
    return load_pretrained(checkpoint)


@pytest.fixture(scope="module")
def sharp(pretrained) -> np.ndarray:
    """What `PHOTO` becomes."""
    return deblur(PHOTO, pretrained, stride=STRIDE)


@pytest.fixture
def vitdeblur(checkpoint, capsys, tmp_path, monkeypatch):
    """Runs the command in an own folder and returns its status and what it said."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        options = [] if "--checkpoint" in arguments else ["--checkpoint", checkpoint]
        status = main([*arguments, *options, "--stride", str(STRIDE)])
        return status, capsys.readouterr().err

    return run


@pytest.fixture
def photo(tmp_path) -> Path:
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def pixels(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def names(folder: str | Path = ".") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


# What it writes, and where


def test_one_image_goes_beside_itself(vitdeblur, photo, sharp):
    status, said = vitdeblur("photo.png")
    assert (status, said) == (0, "photo.png (1 of 1)\nwritten: photo_restored.png\n")
    np.testing.assert_array_equal(pixels("photo_restored.png"), sharp)
    assert names() == ["photo.png", "photo_restored.png"]


def test_output_file(vitdeblur, photo, sharp):
    Path("results").mkdir()
    assert vitdeblur("photo.png", "-o", "results/b.TIF")[0] == 0
    np.testing.assert_array_equal(pixels("results/b.TIF"), sharp)


@pytest.mark.parametrize(
    ("sources", "output"),
    [
        (["photo.png", "album/x.jpg"], "new/folder"),
        (["photo.png", "album"], "new"),
        (["album"], "new"),
        (["photo.png"], "new/"),
        (["photo.png"], "album"),
    ],
)
def test_output_folder(vitdeblur, photo, sources, output):
    Path("album").mkdir()
    Image.fromarray(PHOTO).save("album/x.jpg", quality=95)
    before = names("album")
    assert vitdeblur(*sources, "-o", output)[0] == 0
    wanted = ["photo.png"] * ("photo.png" in sources) + ["x.jpg"] * any(
        "album" in s for s in sources
    )
    assert names(output) == sorted(wanted + before * (output == "album"))


def test_several_images_without_output(vitdeblur, photo):
    Image.fromarray(PHOTO).save("b.ppm")
    status, said = vitdeblur("photo.png", "b.ppm")
    assert status == 0
    assert "b.ppm (2 of 2)\nwritten: b_restored.ppm.png" in said
    assert names() == ["b.ppm", "b_restored.ppm.png", "photo.png", "photo_restored.png"]


def test_standard_input_and_output(vitdeblur, photo, sharp, monkeypatch):
    streams = [SimpleNamespace(buffer=io.BytesIO(data)) for data in (photo.read_bytes(), b"")]
    monkeypatch.setattr(sys, "stdin", streams[0])
    monkeypatch.setattr(sys, "stdout", streams[1])
    assert vitdeblur("-") == (0, "standard input (1 of 1)\n")
    np.testing.assert_array_equal(pixels(streams[1].buffer), sharp)
    streams[0].buffer.seek(0)
    assert vitdeblur("-", "-o", "in a folder/")[0] == 0
    assert names("in a folder") == ["restored.png"]


def test_a_process_says_nothing_else(photo, small, sharp, tmp_path):
    """Neither JAX nor Orbax may add to what the command says."""
    save_pretrained(small, tmp_path / "checkpoint")
    command = [sys.executable, "-m", "vitdeblur_jax.cli.main", "-", "--checkpoint", "checkpoint"]
    done = subprocess.run(
        [*command, "--stride", str(STRIDE)],
        input=photo.read_bytes(),
        capture_output=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert done.stderr.decode() == "standard input (1 of 1)\n"
    assert done.returncode == 0
    result = pixels(io.BytesIO(done.stdout)).astype(int)
    assert np.abs(result - sharp).max() <= 1  # compiled anew: a float may fall on the other side


# What stays beside the pixels


def test_gray_and_alpha_stay(vitdeblur, pretrained, sharp):
    alpha = PHOTO[..., 0]
    Image.fromarray(np.dstack((PHOTO, alpha))).save("alpha.png")
    Image.fromarray(alpha).save("gray.png")
    assert vitdeblur("alpha.png", "gray.png")[0] == 0
    np.testing.assert_array_equal(pixels("alpha_restored.png"), np.dstack((sharp, alpha)))
    restored = deblur(np.dstack([alpha] * 3), pretrained, stride=STRIDE)
    assert pixels("gray_restored.png").ndim == 2
    luminance = restored @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(pixels("gray_restored.png"), luminance, rtol=0, atol=0.51)


def test_what_a_format_cannot_hold_is_said(vitdeblur, sharp):
    Image.fromarray(np.dstack((PHOTO, PHOTO[..., 0]))).save("alpha.png")
    status, said = vitdeblur("alpha.png", "-o", "opaque.jpg")
    assert status == 0
    assert "note: JPEG: transparency is left out\n" in said
    assert pixels("opaque.jpg").shape == sharp.shape


def test_16_bits_stay(vitdeblur, pretrained):
    deep = PHOTO.astype(np.uint16) * 257 + np.arange(3, dtype=np.uint16)
    Path("deep.png").write_bytes(imagecodecs.png_encode(deep))
    assert vitdeblur("deep.png")[0] == 0
    result = imagecodecs.png_decode(Path("deep_restored.png").read_bytes())
    np.testing.assert_array_equal(result, deblur(deep, pretrained, stride=STRIDE))
    assert result.dtype == np.uint16


def test_metadata_stays_and_orientation_is_applied(vitdeblur, sharp):
    exif = Image.Exif()
    exif[ORIENTATION], exif[MAKE] = 6, "Camera maker"
    turned = Image.fromarray(np.rot90(PHOTO))  # 6: turn clockwise to see it upright
    turned.save("turned.png", exif=exif, icc_profile=SRGB)
    assert vitdeblur("turned.png")[0] == 0
    with Image.open("turned_restored.png") as result:
        np.testing.assert_array_equal(np.asarray(result), sharp)
        assert result.info["icc_profile"] == SRGB
        assert result.getexif().get(ORIENTATION, 1) == 1
        assert result.getexif()[MAKE] == "Camera maker"


# What it refuses


def refused(result: tuple[int, str]) -> str:
    """Returns the only line that it says."""
    status, said = result
    assert status == 2
    assert said.count("\n") == 1
    assert said.startswith("error: ")
    return said


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


def test_what_is_restored_in_its_place_cannot_be_skipped_as_done(vitdeblur, photo):
    said = refused(vitdeblur("photo.png", "-o", "photo.png", "--skip-existing"))
    assert "photo.png is to be restored in its place" in said
    np.testing.assert_array_equal(pixels("photo.png"), PHOTO)


def test_an_image_cannot_replace_one_that_is_to_be_restored(vitdeblur, photo):
    Image.fromarray(PHOTO).save("photo_restored.png")
    said = refused(vitdeblur("photo.png", "./photo_restored.png", "--force"))
    assert "photo_restored.png is to be restored itself" in said
    np.testing.assert_array_equal(pixels("photo_restored.png"), PHOTO)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["missing.png"], "missing.png: there is no such file"),
        (["n" * 300], "there is no such file"),
        (["empty folder", "-o", "new"], "no images in empty folder"),
        (["empty folder"], "is a folder: say with -o"),
        (["photo.png", "-o", "photo.gif"], "photo.gif: the ending of a picture is one of .png"),
        (["photo.png", "-o", "new"], "a folder ends in /"),
        (["photo.png", "-o", "new/a.png"], "there is no folder new"),
        (["photo.png", "-o", "text/"], "text/ cannot be made"),
        (["photo.png", "-o", "text/new/"], "text/new/ cannot be made"),
        (["photo.png", "text", "-o", "a.png"], "a.png is the name of one picture"),
        (["photo.png", "text", "-o", "-"], "standard output takes one image"),
        (["photo.png", "./photo.png"], "photo.png and photo.png would both become"),
        (
            ["photo.png", "empty folder/../photo.png", "-o", "new"],
            "would both become new/photo.png",
        ),
        (["photo.png", "--checkpoint", "nothing"], "there is no checkpoint 'nothing'"),
        (["photo.png", "--checkpoint", "text"], "text"),
        (["photo.png", "--checkpoint", "empty folder"], "empty folder is no checkpoint folder"),
        (["photo.png", "--batch-size", "0"], "batch size is 0; it must be 1 or more"),
        (["photo.png", "--strength", "1.5"], "the strength is 1.5; it lies between 0 and 1"),
        (["photo.png", "--strength", "nan"], "the strength is nan; it lies between 0 and 1"),
        (["photo.png", "--uncertainty", "map.png"], "add --self-ensemble"),
        (["photo.png", "--change", "map.gif"], "map.gif: the ending of a map is one of .png"),
        (["photo.png", "--change", "new/map.png"], "new/map.png: there is no folder new"),
        (["photo.png", "--change", "photo.png"], "photo.png would be two things"),
        (["photo.png", "--change", "photo_restored.png"], "would be two things"),
        (["photo.png", "text", "--change", "map.png"], "map of one image; these are 2"),
        (
            ["photo.png", "--self-ensemble", "--change", "a.png", "--uncertainty", "./a.png"],
            "./a.png would be two things",
        ),
    ],
)
def test_what_cannot_be_begun_is_told_in_one_line(vitdeblur, photo, arguments, expected):
    Image.fromarray(PHOTO).save("photo.ppm")
    Path("empty folder").mkdir()
    Path("text").write_text("text")
    assert expected in refused(vitdeblur(*arguments))
    assert set(names()) <= {"photo.png", "photo.ppm", "empty folder", "text", "new"}
    assert not Path("new").exists()


def test_a_refused_output_folder_is_not_made(vitdeblur, photo):
    for wrong in (["--checkpoint", "nothing"], ["--strength", "2"], ["--batch-size", "0"]):
        refused(vitdeblur("photo.png", "-o", "new/", *wrong))
    assert names() == ["photo.png"]


def test_what_follows_a_dot_is_not_always_an_ending(vitdeblur, photo):
    photo.rename("IMG.2024-05-01")
    assert vitdeblur("IMG.2024-05-01")[0] == 0
    assert names() == ["IMG.2024-05-01", "IMG.2024-05-01_restored.png"]


def test_two_processes_with_skip_existing_take_each_others_results(vitdeblur, photo, monkeypatch):
    """The other one writes both while this one restores the first."""
    Image.fromarray(PHOTO).save("b.png")

    def by_another(*arguments, **options):
        for name in ("photo.png", "b.png"):
            Path("new", name).write_text("by another")
        return deblur(*arguments, **options)

    monkeypatch.setattr(restore_files, "deblur", by_another)
    arguments = ["photo.png", "b.png", "-o", "new", "--skip-existing"]
    status, said = vitdeblur(*arguments)
    assert (status, said.splitlines()[1:]) == (0, ["new/b.png is done already"])
    for name in names("new"):
        assert Path("new", name).read_text() == "by another"
        Path("new", name).unlink()
    status, said = vitdeblur(*arguments[:-1])
    assert status == 2
    assert "new/photo.png has come into being meanwhile" in said


def test_names_and_messages_reach_the_terminal_as_printable_text(vitdeblur, photo):
    hostile = "a\x1b[31m\nerror: b\udcff.png"
    photo.rename(hostile)
    status, said = vitdeblur(hostile, "missing\x1b]0;title\x07")
    assert status == 2
    assert said == "error: missing\\x1b]0;title\\x07: there is no such file\n"
    said = vitdeblur(hostile)[1]
    shown = "a\\x1b[31m\\nerror: b\\udcff"
    assert said == f"{shown}.png (1 of 1)\nwritten: {shown}_restored.png\n"


def test_a_nul_character_in_a_path_is_told_in_one_line(vitdeblur, photo):
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


def test_a_stride_that_leaves_gaps(vitdeblur, photo, checkpoint, capsys):
    assert main(["photo.png", "--checkpoint", checkpoint, "--stride", "37"]) == 2
    assert capsys.readouterr().err.startswith("error: stride is 37; the feature map of a window")


def test_a_stride_that_repeats_the_token_grid_is_noted(photo, checkpoint, capsys, monkeypatch):
    monkeypatch.chdir(photo.parent)
    assert main(["photo.png", "--checkpoint", checkpoint, "--stride", "28"]) == 0
    note = "note: stride 28 is a multiple of 4, the step between tokens: the token grids of all"
    assert capsys.readouterr().err.startswith(note)


def test_a_model_of_two_views_takes_no_image(vitdeblur, photo):
    save_pretrained(small_pretrained(views=2), "dual.safetensors")
    said = refused(vitdeblur("photo.png", "--checkpoint", "dual.safetensors"))
    assert "dual.safetensors restores a left and a right view" in said


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
    assert said.endswith("\n3 of 5 could not be restored; the errors above name them\n")
    for line, expected in zip(
        errors, ["b.png: the file is empty", "c.png: ", "d.png: not an"], strict=True
    ):
        assert line.startswith(f"error: {expected}")


def test_a_full_disk_leaves_what_was_there(vitdeblur, photo):
    """The limit on the size of files fails as a full disk does: in the midst of writing."""
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


# Strength, self-ensemble, maps


def test_strength_blends_with_the_image(vitdeblur, photo, sharp):
    assert vitdeblur("photo.png", "--strength", "0", "-o", "none.png")[0] == 0
    np.testing.assert_array_equal(pixels("none.png"), PHOTO)
    assert vitdeblur("photo.png", "--strength", "0.25", "-o", "some.png")[0] == 0
    mixture = 0.75 * PHOTO + 0.25 * sharp
    # The network's output was clipped and rounded in `sharp`, but not before it was blended.
    inside = (sharp > 0) & (sharp < 255)
    assert np.abs(pixels("some.png") - mixture)[inside].max() < 0.7


def test_the_change_is_drawn(vitdeblur, photo, sharp):
    assert vitdeblur("photo.png", "--change", "change.png")[0] == 0
    change = np.abs(sharp.astype(float) - PHOTO).mean(axis=-1)
    expected = np.clip(change / 32 * 255, 0, 255)
    assert np.abs(pixels("change.png")[..., 0] - expected).max() <= 0.51
    assert "change.png exists; --force" in refused(
        vitdeblur("photo.png", "-o", "b.png", "--change", "change.png")
    )


def test_self_ensemble_is_the_mean_over_flips_and_turns(vitdeblur, photo, pretrained):
    options = ["--self-ensemble", "--uncertainty", "map.png"]
    status, said = vitdeblur("photo.png", *options)
    assert status == 0
    assert said.splitlines()[-2:] == ["written: photo_restored.png", "written: map.png"]
    image = PHOTO.astype(np.float32) / 255
    each = []
    for turns in range(4):
        for mirrored in (image, image[:, ::-1]):
            turned = np.ascontiguousarray(np.rot90(mirrored, turns))
            restored = np.rot90(deblur(turned, pretrained, stride=STRIDE), -turns)
            each.append(restored if mirrored is image else restored[:, ::-1])
    mean = 255 * np.mean(each, axis=0).clip(0, 1)
    assert np.abs(pixels("photo_restored.png") - mean).max() < 0.51
    spread = np.sqrt(np.var(each, axis=0).mean(axis=-1)) / (8 / 255)
    assert np.abs(pixels("map.png")[..., 0] - 255 * spread.clip(0, 1)).max() < 0.6


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_deblur_takes_the_same_options(small, kind):
    image = PHOTO if kind is np.uint8 else PHOTO.astype(np.float32) / 255
    whole = deblur(image, small, stride=STRIDE, ensemble=True).astype(float)
    half = deblur(image, small, stride=STRIDE, ensemble=True, strength=0.5)
    assert half.dtype == kind
    free = np.ones(image.shape, bool) if kind is np.float32 else (whole > 0) & (whole < 255)
    bound = 1e-5 if kind is np.float32 else 0.8
    assert np.abs(half - (whole + image) / 2)[free].max() < bound
    with pytest.raises(UserError, match=r"the strength is -1\.0; it lies between 0 and 1"):
        deblur(image, small, strength=-1.0)


# Usage


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a.png", "--checkpoint", "b", "--stride", "x"],
        ["a.png", "--no"],
        ["convert"],
    ],
)
def test_wrong_usage_is_told_in_one_line(arguments, capsys):
    said = refused((main(arguments), capsys.readouterr().err))
    assert re.search("; see vitdeblur.* --help$", said.strip())


def test_restore_is_a_command_and_its_name_may_be_left_out(vitdeblur, photo, sharp):
    assert vitdeblur("restore", "photo.png")[0] == 0
    np.testing.assert_array_equal(pixels("photo_restored.png"), sharp)


@pytest.mark.parametrize("command", ["restore", "convert", "export", "data", "score"])
def test_a_folder_that_is_called_as_a_command_gets_a_hint(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    arguments = [command, *(["-o", "out"] if command != "restore" else [])]
    assert "to restore" not in refused((main(arguments), capsys.readouterr().err))
    Path(command).mkdir()
    said = refused((main(arguments), capsys.readouterr().err))
    assert f"type `vitdeblur restore {command}`" in said


def test_help_mentions_everything(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    for word in (
        "--output",
        "--checkpoint",
        "--stride",
        "--batch-size",
        "--force",
        "convert",
        "export",
    ):
        assert word in said
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    said = capsys.readouterr().out
    for word in ("IN", "OUT", "--force", ".pth", ".safetensors", "folder"):
        assert word in said
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    said = capsys.readouterr().out
    for word in ("CHECKPOINT", "OUT", "--platforms", "cpu,cuda,tpu", "--batch-size", "demo"):
        assert word in said


# vitdeblur convert


@pytest.fixture
def convert(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        return main(["convert", *arguments]), capsys.readouterr().err

    return run


def test_conversions_keep_every_variable(convert, checkpoint, small):
    status, said = convert(checkpoint, "a.pth")
    assert status == 0
    assert said.startswith("written: a.pth\nkept: ")
    for source, destination in (("a.pth", "b"), ("b", "c.safetensors")):
        assert convert(source, destination)[0] == 0
    assert names() == ["a.pth", "b", "c.safetensors"]
    for name in names():
        result = load_pretrained(name)
        assert result.config == small.config
        jax.tree.map(_assert_equal_but_for_rounding, result.variables, small.variables)


def _assert_equal_but_for_rounding(actual, desired):
    """The reference sees BGR: turning the first layer to RGB and back rounds its weights."""
    np.testing.assert_allclose(actual, desired, rtol=0, atol=1e-6)


def test_converting_to_a_folder_tells_what_is_left_out(convert, checkpoint):
    said = convert(checkpoint, "folder")[1]
    assert "\nleft out of the folder: " in said


def test_conversions_overwrite_only_by_force(convert, checkpoint):
    Path("a.pth").write_text("precious")
    assert refused(convert(checkpoint, "a.pth")) == "error: a.pth exists; --force overwrites it\n"
    assert Path("a.pth").read_text() == "precious"
    assert convert(checkpoint, "a.pth", "--force")[0] == 0
    assert len(load_pretrained("a.pth").variables) == 3


@pytest.mark.parametrize(
    ("source", "destination", "expected"),
    [
        (None, "a.onnx", "a.onnx: a checkpoint ends in .safetensors, .pth"),
        (None, "missing/a.pth", "missing/a.pth: there is no folder"),
        ("missing.pth", "a.pth", "there is no checkpoint 'missing.pth'"),
        ("text.pth", "a.pth", "text.pth"),
        ("text.safetensors", "a.pth", "text.safetensors: cannot be read"),
    ],
)
def test_conversions_that_cannot_be(convert, checkpoint, source, destination, expected):
    for ending in ("pth", "safetensors"):
        Path(f"text.{ending}").write_text("text")
    assert expected in refused(convert(source or checkpoint, destination))
    assert names() == ["text.pth", "text.safetensors"]


# Damaged images, and quality


def test_a_damaged_image_is_restored_with_a_note(vitdeblur, photo):
    stream = io.BytesIO()
    Image.fromarray(PHOTO).save(stream, "JPEG", quality=98)
    data = stream.getvalue()
    for damaged, told in (
        (data[: len(data) // 2] + b"\xff\xd9", "note: the file is damaged"),
        (data[:-2], "the mark at its end is missing"),
    ):
        Path("torn.jpg").write_bytes(damaged)
        status, said = vitdeblur("torn.jpg", "--force", "--strength", "0")
        assert status == 0, said
        assert told in said
        assert pixels("torn_restored.jpg").shape == PHOTO.shape


def test_quality_of_the_result(vitdeblur, photo):
    Image.fromarray(PHOTO).save("a.jpg", quality=60, subsampling=2)
    for options, quality in ([], 60), (["--quality", "80"], 80):
        assert vitdeblur("a.jpg", "--force", *options)[0] == 0
        Image.fromarray(PHOTO).save("oracle.jpg", quality=quality, subsampling=2)
        with Image.open("a_restored.jpg") as result, Image.open("oracle.jpg") as oracle:
            assert result.quantization == oracle.quantization
            assert result.layer == oracle.layer
    status, said = vitdeblur("photo.png", "--quality", "80")
    assert status == 2
    assert "--quality is for JPEG and WebP; photo_restored.png is neither" in said
    assert "from 1 to 100" in vitdeblur("a.jpg", "--force", "--quality", "0")[1]


def test_a_tilde_in_an_option_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    options = parse_command(["~/a.jpg", "~b.jpg", "--output=~/out"])
    assert options.image == ["/home/me/a.jpg", "~b.jpg"]
    assert options.output == "/home/me/out"
    options = parse_command(["score", "--data=~/d", "--set=pairs", "--out=~/o", "a=~/r"])
    assert (options.data, options.out) == ("/home/me/d", Path("/home/me/o"))
    assert parse_method(options.methods[0]).folder == Path("/home/me/r")
