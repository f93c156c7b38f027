"""Which data set lies in a folder; only names count, so that empty files stand for images."""

import os
from pathlib import Path

import pytest

from vitdeblur_jax.data.layouts import find_pairs
from vitdeblur_jax.data.recognition import recognize
from vitdeblur_jax.utils.errors import UserError

TWO_FOLDERS = {f"{side}/{number}.png" for side in ("source", "target") for number in (7, 8, 9)}


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def recognized(root: Path) -> tuple[str, dict[str, tuple[str, ...]]]:
    """Returns the data set and the layouts by split, having found the pairs of all of them."""
    found = recognize(root)
    for part in found.parts:
        for layout in part.layouts:
            assert find_pairs(root, layout, part.split)
    return found.dataset, {part.split: part.layouts for part in found.parts}


def refusal(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        recognize(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def dpdd(split: str, views: str = "clr") -> list[str]:
    names = [f"{split}_{view}/source/1P0A000{n}.png" for n, view in enumerate(views)]
    return [*names, f"{split}_c/target/1P0A0009.png"]


def repack(views: str = "CLR") -> list[str]:
    return [f"input{view}/a.png" for view in views] + ["target/a.png"]


@pytest.mark.parametrize("folder", ["", "dd_dp_dataset_canon", "dd_dp_dataset_png", "DPDD"])
def test_dpdd(tmp_path, folder):
    both = ("dpdd", "dpdd_dual_pixel")
    touch(tmp_path / folder, *dpdd("train"), *dpdd("val"), *dpdd("test"))
    assert recognized(tmp_path) == ("DPDD", dict.fromkeys(("train", "val", "test"), both))
    assert recognized(tmp_path / folder)[0] == "DPDD"


def test_dpdd_in_part(tmp_path):
    touch(tmp_path, *dpdd("test", "c"))
    assert recognized(tmp_path) == ("DPDD", {"test": ("dpdd",)})
    assert recognize(tmp_path).parts[0].folders == {
        "blurred": (tmp_path / "test_c/source",),
        "sharp": (tmp_path / "test_c/target",),
    }
    touch(tmp_path / "no_targets", "test_c/source/1P0A0001.png", "val_c/source/x.png")
    touch(tmp_path / "canon_names", "test_c/source/1P0A0001.png")
    assert recognize(tmp_path / "no_targets").dataset == "DPDD"
    assert recognize(tmp_path / "canon_names").dataset == "DPDD"


def test_dpdd_as_restormer_has_repacked_it(tmp_path):
    for split in ("train", "test"):
        touch(tmp_path / split / "DPDD", *repack())
    both = ("dpdd", "dpdd_dual_pixel")
    assert recognized(tmp_path) == ("DPDD repack", {"train": both, "test": both})
    for root in (tmp_path / "test", tmp_path / "test/DPDD"):
        assert recognized(root) == ("DPDD repack", {"test": both})
    assert recognized(touch(tmp_path / "views", *repack("LR"))) == (
        "DPDD repack",
        {"all": ("dpdd_dual_pixel",)},
    )


def test_realdof_by_its_names_or_its_folder(tmp_path):
    names = [f"{n:02}.png" for n in range(1, 51)]
    touch(tmp_path / "x", *(f"{side}/{name}" for side in ("source", "target") for name in names))
    assert recognized(tmp_path / "x") == ("RealDOF", {"test": ("realdof",)})
    (tmp_path / "x/source/31.png").unlink()
    assert recognize(tmp_path / "x").dataset == "RealDOF"
    touch(tmp_path / "RealDOF", *TWO_FOLDERS)
    assert recognized(tmp_path / "RealDOF")[0] == "RealDOF"
    rtf = [f"{side}/{name}" for side in ("source", "target") for name in names[:22]]
    assert recognized(touch(tmp_path / "RTF", *rtf)) == ("pairs", {"all": ("pairs",)})


def test_lfdof(tmp_path):
    for split in ("train", "test"):
        scenes = [f"{split}_data/input/IMG_1/IMG_1_ap{a}_00.png" for a in (1, 2)]
        touch(tmp_path, *scenes, f"{split}_data/ground_truth/IMG_1.png")
    assert recognized(tmp_path) == ("LFDOF", {"train": ("lfdof",), "test": ("lfdof",)})
    assert recognized(tmp_path / "train_data") == ("LFDOF", {"train": ("lfdof",)})
    (tmp_path / "test_data").rename(tmp_path / "mine")
    assert recognized(tmp_path / "mine") == ("LFDOF", {"all": ("lfdof",)})


def test_lfdof_without_ground_truth_is_still_lfdof(tmp_path):
    touch(tmp_path, "test_data/input/IMG_1/IMG_1_ap1_00.png")
    assert recognize(tmp_path).dataset == "LFDOF"


def test_lfdof_sample_by_its_names(tmp_path):
    touch(tmp_path / "sample", "input/IMG_2162.png", "ground_truth/IMG_2162.png")
    assert recognized(tmp_path / "sample") == ("LFDOF sample", {"all": ("lfdof",)})
    touch(tmp_path / "mine", "input/x.png", "ground_truth/x.png")
    assert recognized(tmp_path / "mine") == ("pairs", {"all": ("pairs",)})


def test_cuhk_by_its_names_or_its_folder(tmp_path):
    touch(tmp_path / "x", "out_of_focus0001.jpg", "out_of_focus0002.jpg")
    touch(tmp_path / "CUHK", "1.jpg")
    for root in (tmp_path / "x", tmp_path / "CUHK"):
        assert recognized(root) == ("CUHK", {"test": ("images",)})


@pytest.mark.parametrize("below", ["", "source/"])
def test_pixeldp(tmp_path, below):
    touch(tmp_path, *(f"test_{view}/{below}IMG.jpg" for view in "clr"))
    assert recognized(tmp_path) == ("PixelDP", {"test": ("pixeldp", "pixeldp_dual_pixel")})


@pytest.mark.parametrize("source", ["source", "input", "blurred", "blur"])
@pytest.mark.parametrize("target", ["target", "ground_truth", "sharp", "gt"])
def test_two_folders(tmp_path, source, target):
    touch(tmp_path, f"{source}/a.png", f"{target}/a.png")
    assert recognized(tmp_path) == ("pairs", {"all": ("pairs",)})


def test_images(tmp_path):
    touch(tmp_path, "a.jpg", "b.PNG", "folder/c.png", "notes.txt")
    assert recognized(tmp_path) == ("images", {"all": ("images",)})


def test_what_is_looked_for_and_what_is_there(tmp_path):
    touch(tmp_path, "raw/a.png", "labels.npy")
    message = refusal(tmp_path)
    for sought in ("_c (DPDD", "PixelDP", "inputC", "_data/input (LFDOF)", "source or input"):
        assert sought in message
    assert message.endswith("it contains labels.npy, raw")
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty").endswith("it contains nothing")
    assert refusal(tmp_path / "missing") == f"{tmp_path}/missing is not a folder"
    assert "is not a folder" in refusal(tmp_path / "labels.npy")


def test_links_that_go_round(tmp_path):
    touch(tmp_path, "test_data/input/IMG_1/a.png", "test_data/ground_truth/IMG_1.png")
    (tmp_path / "test_data/input/IMG_1/up").symlink_to(tmp_path)
    (tmp_path / "train_data").symlink_to("train_data")
    assert recognized(tmp_path) == ("LFDOF", {"test": ("lfdof",)})
    (tmp_path / "round").symlink_to("round")
    assert "is not a folder" in refusal(tmp_path / "round")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_may_not_be_listed(tmp_path):
    tmp_path.chmod(0)
    try:
        assert "cannot be listed" in refusal(tmp_path)
    finally:
        tmp_path.chmod(0o700)
