"""Data-set layouts, made up small in a temporary folder."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitdeblur_jax.data.layouts import DPDD_COUNTS, LAYOUTS, find_pairs
from vitdeblur_jax.data.pairs import Pair, UnpairedError, check_sizes, describe, read_pair
from vitdeblur_jax.data.recognition import recognize
from vitdeblur_jax.utils.errors import UserError


def make(root: Path, *names: str, value: int = 0, size: tuple[int, int] = (4, 3)) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (value, value, value)).save(path)


def found(root: Path, layout: str, split: str = "test") -> list[tuple]:
    return [
        (
            pair.name,
            *(path.relative_to(root).as_posix() for path in pair.source),
            pair.target and pair.target.relative_to(root).as_posix(),
        )
        for pair in find_pairs(root, layout, split)
    ]


def refusal(root: Path, layout: str, split: str = "test") -> str:
    with pytest.raises(UserError) as caught:
        find_pairs(root, layout, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def make_dpdd(base: Path) -> None:
    make(base, "test_c/source/1P0A0002.png", "test_c/source/1P0A0012.png")
    make(base, "test_c/target/1P0A0001.png", "test_c/target/1P0A0011.png")
    make(base, "test_l/source/1P0A0003.png", "test_l/source/1P0A0013.png")
    make(base, "test_r/source/1P0A0004.png", "test_r/source/1P0A0014.png")


@pytest.mark.parametrize("folder", ["", "dd_dp_dataset_canon", "dd_dp_dataset_png", "DPDD"])
def test_dpdd_is_paired_by_order_because_numbers_differ(tmp_path, folder):
    base = tmp_path / folder
    make_dpdd(base)
    at = f"{folder}/" if folder else ""
    assert found(tmp_path, "dpdd") == [
        ("1P0A0002", f"{at}test_c/source/1P0A0002.png", f"{at}test_c/target/1P0A0001.png"),
        ("1P0A0012", f"{at}test_c/source/1P0A0012.png", f"{at}test_c/target/1P0A0011.png"),
    ]
    assert found(tmp_path, "dpdd_dual_pixel")[1] == (
        "1P0A0013",
        f"{at}test_l/source/1P0A0013.png",
        f"{at}test_r/source/1P0A0014.png",
        f"{at}test_c/target/1P0A0011.png",
    )


@pytest.mark.parametrize("root", ["", "test", "test/DPDD"])
def test_dpdd_repacked(tmp_path, root):
    base = tmp_path / "test" / "DPDD"
    for view in ("inputC", "inputL", "inputR", "target"):
        make(base, f"{view}/a.png", f"{view}/b.png")
    pairs = find_pairs(tmp_path / root, "dpdd_dual_pixel")
    assert pairs[0] == Pair(
        "a", (base / "inputL/a.png", base / "inputR/a.png"), base / "target/a.png"
    )
    assert find_pairs(tmp_path / root, "dpdd")[1].source == (base / "inputC/b.png",)


@pytest.mark.parametrize("root", ["test", "test/DPDD"])
def test_dpdd_repacked_is_not_taken_for_another_split(tmp_path, root):
    make(tmp_path / "test" / "DPDD", "inputC/a.png", "target/a.png")
    assert "is the split 'test', not 'train'" in refusal(tmp_path / root, "dpdd", "train")


def test_dpdd_split_is_chosen(tmp_path):
    make(tmp_path, "val_c/source/v.png", "val_c/target/w.png")
    assert found(tmp_path, "dpdd", "val") == [("v", "val_c/source/v.png", "val_c/target/w.png")]
    message = refusal(tmp_path, "dpdd", "test")
    assert "test_c/source" in message
    assert "val_c" in message


def test_dpdd_unequal_counts_and_missing_views(tmp_path):
    make_dpdd(tmp_path)
    (tmp_path / "test_c/target/1P0A0011.png").unlink()
    message = refusal(tmp_path, "dpdd")
    assert f"2 in {tmp_path}/test_c/source, 1 in {tmp_path}/test_c/target" in message
    for path in (tmp_path / "test_r/source").iterdir():
        path.unlink()
    assert "no images in" in refusal(tmp_path, "dpdd_dual_pixel")
    (tmp_path / "test_r/source").rmdir()
    (tmp_path / "test_r").rmdir()
    message = refusal(tmp_path, "dpdd_dual_pixel")
    assert f"no folder {tmp_path}/test_r/source" in message
    assert "test_l" in message


@pytest.mark.parametrize("folder", ["", "dd_dp_dataset_pixel", "PixelDP"])
@pytest.mark.parametrize("below", ["", "source/"])
def test_pixeldp_has_no_targets(tmp_path, folder, below):
    base, at = tmp_path / folder, f"{folder}/" if folder else ""
    for view in "clr":
        make(base, f"test_{view}/{below}{view}1.png", f"test_{view}/{below}{view}2.png")
    assert found(tmp_path, "pixeldp") == [
        ("c1", f"{at}test_c/{below}c1.png", None),
        ("c2", f"{at}test_c/{below}c2.png", None),
    ]
    assert found(tmp_path, "pixeldp_dual_pixel")[1] == (
        "l2",
        f"{at}test_l/{below}l2.png",
        f"{at}test_r/{below}r2.png",
        None,
    )


def test_pixeldp_without_a_view(tmp_path):
    make(tmp_path, "test_c/1.png", "test_l/1.png")
    assert len(find_pairs(tmp_path, "pixeldp")) == 1
    assert f"no folder test_r in {tmp_path}" in refusal(tmp_path, "pixeldp_dual_pixel")
    make(tmp_path, "test_r/1.png", "test_r/2.png")
    message = f"1 in {tmp_path}/test_l, 2 in {tmp_path}/test_r"
    assert message in refusal(tmp_path, "pixeldp_dual_pixel")


def whole_pairs(root: Path, layout: str) -> list[str]:
    with pytest.raises(UnpairedError) as caught:
        find_pairs(root, layout)
    assert str(caught.value).startswith(f"{layout}: ")
    return sorted(pair.name for pair in caught.value.pairs)


def test_a_missing_partner_leaves_the_other_pairs(tmp_path):
    make(tmp_path, "input/s1/a.png", "input/s2/a.png", "input/s2/b.png", "ground_truth/s2.png")
    assert whole_pairs(tmp_path, "lfdof") == ["s2_a", "s2_b"]
    make(tmp_path / "named", "source/1.png", "source/2.png", "target/2.png")
    assert whole_pairs(tmp_path / "named", "pairs") == ["2"]
    make(tmp_path / "ordered", "test_c/source/1.png", "test_c/source/2.png", "test_c/target/2.png")
    assert whole_pairs(tmp_path / "ordered", "dpdd") == ["2"]


def test_realdof(tmp_path):
    make(tmp_path, "source/2.png", "source/1.png", "target/1.jpg", "target/2.jpg")
    assert found(tmp_path, "realdof") == [
        ("1", "source/1.png", "target/1.jpg"),
        ("2", "source/2.png", "target/2.jpg"),
    ]


@pytest.mark.parametrize("root", ["", "test_data"])
def test_lfdof_scenes_share_a_target(tmp_path, root):
    base = tmp_path / "test_data"
    make(base, "input/s1/a.png", "input/s1/b.png", "input/s1/c.png", "input/s2/a.png")
    make(base, "ground_truth/s1.png", "ground_truth/s2.png")
    pairs = find_pairs(tmp_path / root, "lfdof")
    assert [pair.name for pair in pairs] == ["s1_a", "s1_b", "s1_c", "s2_a"]
    assert [pair.target.name for pair in pairs] == ["s1.png"] * 3 + ["s2.png"]
    assert pairs[3].source == (base / "input/s2/a.png",)


def test_lfdof_train_split_and_flat_sample(tmp_path):
    make(tmp_path, "train_data/input/s/a.png", "train_data/ground_truth/s.png")
    assert found(tmp_path, "lfdof", "train")[0][0] == "s_a"
    make(tmp_path / "flat", "input/x.png", "input/y.png", "ground_truth/x.png")
    message = refusal(tmp_path / "flat", "lfdof")
    assert message.endswith("ground_truth: y")
    make(tmp_path / "flat", "ground_truth/y.png")
    assert found(tmp_path / "flat", "lfdof")[1] == ("y", "input/y.png", "ground_truth/y.png")


@pytest.mark.parametrize("folder", ["__MACOSX", "@eaDir", ".cache"])
def test_folders_that_archives_add_are_no_scenes_of_lfdof(tmp_path, folder):
    make(tmp_path, "input/s1/a.png", f"input/{folder}/s1/._a.png", "ground_truth/s1.png")
    assert [pair.name for pair in find_pairs(tmp_path, "lfdof")] == ["s1_a"]
    assert recognize(tmp_path).dataset == "LFDOF"


def test_lfdof_scenes_and_their_ground_truth_pair_by_number(tmp_path):
    for scene in (2, 10, 11):
        make(tmp_path, f"input/s{scene}/a10.png", f"input/s{scene}/a9.png")
        make(tmp_path, f"ground_truth/s{scene:03}_gt.png")
    pairs = find_pairs(tmp_path, "lfdof")
    assert [pair.name for pair in pairs[:3]] == ["s2_a9", "s2_a10", "s10_a9"]
    assert [pair.target.stem for pair in pairs[1:4]] == ["s002_gt", "s010_gt", "s010_gt"]
    (tmp_path / "ground_truth/s010_gt.png").rename(tmp_path / "ground_truth/s012_gt.png")
    assert refusal(tmp_path, "lfdof").endswith("ground_truth: s10, s012_gt")


def test_images_beside_the_scenes_of_lfdof_are_refused(tmp_path):
    make(tmp_path, "input/s1/a.png", "input/loose.png", "ground_truth/s1.png")
    with pytest.raises(UserError, match=r"scene folders and also loose\.png"):
        find_pairs(tmp_path, "lfdof")


def test_lfdof_scene_without_ground_truth(tmp_path):
    make(tmp_path, "input/s1/a.png", "input/s2/a.png", "ground_truth/s1.png")
    assert re.search(r"not in both input and ground_truth: s2$", refusal(tmp_path, "lfdof"))


@pytest.mark.parametrize("source", ["source", "input", "blurred", "blur"])
@pytest.mark.parametrize("target", ["target", "ground_truth", "sharp", "gt"])
def test_pairs_takes_the_usual_folder_names(tmp_path, source, target):
    make(tmp_path, f"{source}/a.png", f"{target}/a.png")
    assert found(tmp_path, "pairs") == [("a", f"{source}/a.png", f"{target}/a.png")]


def test_pairs_go_by_stem_before_order(tmp_path):
    # By file name "a-b.png" precedes "a.png", yet "a.JPG" precedes "a-b.png" nowhere.
    make(tmp_path, "source/a.png", "source/a-b.png", "target/a-b.bmp", "target/a.JPG")
    assert found(tmp_path, "pairs") == [
        ("a", "source/a.png", "target/a.JPG"),
        ("a-b", "source/a-b.png", "target/a-b.bmp"),
    ]


def test_numbers_decide_and_not_the_order_of_the_alphabet(tmp_path):
    make(tmp_path, *(f"input/{i}_blur.png" for i in range(1, 13)))
    make(tmp_path, *(f"target/{i}.png" for i in range(1, 13)))
    assert found(tmp_path, "pairs") == [
        (f"{i}_blur", f"input/{i}_blur.png", f"target/{i}.png") for i in range(1, 13)
    ]
    pairs = find_pairs(tmp_path, "pairs")
    assert describe(pairs) == "paired by name, first: 1_blur <-> 1, last: 12_blur <-> 12"


def test_pairs_by_order_say_so(tmp_path):
    make(tmp_path, *(f"blur/a{i}.png" for i in (9, 10)), *(f"gt/{i}.png" for i in (4, 12)))
    pairs = find_pairs(tmp_path, "pairs")
    assert [pair.name for pair in pairs] == ["a9", "a10"]
    assert describe(pairs) == "paired by order, first: a9 <-> 4, last: a10 <-> 12"
    make_dpdd(tmp_path)
    assert describe(find_pairs(tmp_path, "dpdd_dual_pixel")) == (
        "paired by order, first: 1P0A0003 <-> 1P0A0004 <-> 1P0A0001, "
        "last: 1P0A0013 <-> 1P0A0014 <-> 1P0A0011"
    )
    assert describe(find_pairs(tmp_path / "blur", "images")) == ""


def test_contradicting_numbers_name_the_folders(tmp_path):
    make(tmp_path, "blur/cam1_5.png", "blur/cam1_6.png", "gt/cam2_5.png", "gt/cam2_6.png")
    message = f"pairs: {tmp_path}/blur and {tmp_path}/gt: the numbers of cam1_5 and cam2_5"
    assert refusal(tmp_path, "pairs").startswith(message)


def test_whole_dpdd_is_paired_by_order_though_a_number_is_on_both_sides(tmp_path, monkeypatch):
    make_dpdd(tmp_path)
    make(tmp_path, "test_c/source/1P0A0022.png", "test_c/target/1P0A0002.png")
    assert "without a partner: 1P0A0001, 1P0A0011, 1P0A0012, 1P0A0022" in refusal(tmp_path, "dpdd")
    monkeypatch.setitem(DPDD_COUNTS, "test", 3)
    assert [pair.target.stem for pair in find_pairs(tmp_path, "dpdd")] == [
        *("1P0A0001", "1P0A0002", "1P0A0011")
    ]


def test_pairs_refuses_unequal_counts(tmp_path):
    make(tmp_path, "source/1.png", "source/2.png", "source/3.png", "target/1.png")
    message = refusal(tmp_path, "pairs")
    assert f"3 in {tmp_path}/source, 1 in {tmp_path}/target; without a partner: 2, 3" in message
    (tmp_path / "target/1.png").rename(tmp_path / "target/z.png")
    counts = f"pairs: 3 in {tmp_path}/source, 1 in {tmp_path}/target"
    assert refusal(tmp_path, "pairs") == f"{counts}; none of their names match"


def test_images_have_no_target(tmp_path):
    make(tmp_path, "b.png", "a.jpg", ".hidden.png", "folder/c.png")
    (tmp_path / "notes.txt").write_text("no image")
    assert found(tmp_path, "images") == [("a", "a.jpg", None), ("b", "b.png", None)]


def test_two_sources_of_one_name(tmp_path):
    make(tmp_path, "a.png", "a.jpg")
    assert re.search(r"several .* same name .*: a$", refusal(tmp_path, "images"))
    make(tmp_path / "lfdof", "input/s/a_b.png", "input/s_a/b.png")
    make(tmp_path / "lfdof", "ground_truth/s.png", "ground_truth/s_a.png")
    assert refusal(tmp_path / "lfdof", "lfdof").endswith(": s_a_b")
    make(tmp_path / "dpdd", "test_c/source/a.png", "test_c/source/a.jpg")
    make(tmp_path / "dpdd", "test_c/target/1.png", "test_c/target/2.png")
    assert refusal(tmp_path / "dpdd", "dpdd").endswith(": a")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_missing_root_and_empty_root(tmp_path, layout):
    assert "is not a folder" in refusal(tmp_path / "missing", layout)
    (tmp_path / "file").write_text("")
    assert "is not a folder" in refusal(tmp_path / "file", layout)
    (tmp_path / "empty").mkdir()
    message = refusal(tmp_path / "empty", layout)
    assert "nothing" in message or "no images in" in message


def test_missing_folder_tells_what_is_there(tmp_path):
    make(tmp_path, "images/a.png")
    for layout in ("realdof", "lfdof", "pairs", "dpdd"):
        assert refusal(tmp_path, layout).endswith("which contains images")
    make(tmp_path, "source/a.png")
    (tmp_path / "target").mkdir()
    assert f"no images in {tmp_path}/target" in refusal(tmp_path, "pairs")


def test_unknown_layout_names_the_nearest(tmp_path):
    message = refusal(tmp_path, "real_dof")
    assert "'realdof'" in message
    assert all(layout in message for layout in LAYOUTS)


def test_read_pair_puts_left_before_right(tmp_path):
    make(tmp_path, "left.png", value=10)
    make(tmp_path, "right.png", value=20)
    make(tmp_path, "sharp.png", value=30)
    views = (tmp_path / "left.png", tmp_path / "right.png")
    source, target = read_pair(Pair("a", views, tmp_path / "sharp.png"))
    assert source.shape == (3, 4, 6)
    assert source.dtype == np.uint8
    assert source[0, 0].tolist() == [10, 10, 10, 20, 20, 20]
    assert target.shape == (3, 4, 3)
    assert target.max() == target.min() == 30
    source, target = read_pair(Pair("a", views[1:], None))
    assert source.shape == (3, 4, 3)
    assert target is None


def test_read_pair_refuses_other_sizes_and_depths(tmp_path):
    make(tmp_path, "a.png", size=(4, 3))
    make(tmp_path, "b.png", size=(3, 4))
    a, b = tmp_path / "a.png", tmp_path / "b.png"
    for pair in (Pair("a", (a,), b), Pair("a", (a, b), None)):
        with pytest.raises(UserError, match="sizes differ") as caught:
            read_pair(pair)
        assert f"{a} is 4 x 3, {b} is 3 x 4" in str(caught.value)
    Image.fromarray(np.zeros((3, 4), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(UserError, match=r"depths differ.*uint8 and uint16"):
        read_pair(Pair("a", (a, tmp_path / "deep.png"), None))
    assert read_pair(Pair("a", (tmp_path / "deep.png",), a))[0].dtype == np.uint16


def test_unequal_sizes_are_found_in_the_heads_of_the_files(tmp_path):
    make(tmp_path, "a.png", size=(4, 3))
    make(tmp_path, "turned.png", size=(3, 4))
    make(tmp_path, "larger.png", size=(4, 5))
    a, turned, larger = (tmp_path / name for name in ("a.png", "turned.png", "larger.png"))
    for path in (a, turned, larger):
        path.write_bytes(path.read_bytes()[:64])
    check_sizes([Pair("a", (a,), turned), Pair("b", (a, a), None)])
    for pair in (Pair("a", (a,), larger), Pair("b", (a, larger), None), Pair("c", (a, a), larger)):
        with pytest.raises(UserError, match=r"sizes differ: .*a.png is 4 x 3, .*larger.png is 4 x"):
            check_sizes([Pair("a", (a,), turned), pair])
