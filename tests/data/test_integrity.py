"""The check of a data set, on sets made up small in the real naming."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitdeblur_jax.data.integrity import check_data, run_check
from vitdeblur_jax.data.integrity_report import report_json, report_lines
from vitdeblur_jax.utils.errors import CHECKED_AND_WRONG, UserError


def make(root: Path, *names: str, size: tuple[int, int] = (5, 4), bits: int = 8) -> Path:
    """Writes images of noise, each another one by its path."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(list(str(path).encode()))
        if bits == 16:
            pixels = random.integers(0, 2**16, size[::-1], np.uint16)
        else:
            pixels = random.integers(0, 256, (*size[::-1], 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return root


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def problems(root: Path, decode: bool = True) -> list[tuple]:
    return [
        (problem.kind, problem.splits, problem.message)
        for problem in check_data(root, decode).problems
    ]


def dpdd(counts: dict[str, int]) -> list[str]:
    names = []
    for split, count in counts.items():
        for n in range(count):
            names += [
                f"{split}_{view}/source/1P0A{4 * n + i:04}.png" for i, view in enumerate("clr")
            ]
            names.append(f"{split}_c/target/1P0A{4 * n + 3:04}.png")
    return names


def lfdof(split: str, scenes: int, images: int) -> list[str]:
    settings = [f"ap{a}_0{f}" for a in (1, 2, 3) for f in range(5)]
    names = []
    for n in range(scenes):
        count = images // scenes + (n < images % scenes)
        stems = [f"IMG_{n:04}/IMG_{n:04}_{setting}.png" for setting in settings[:count]]
        names += [f"{split}_data/input/{stem}" for stem in stems]
        names.append(f"{split}_data/ground_truth/IMG_{n:04}.png")
    return names


REALDOF = [f"{side}/{n:02}.png" for side in ("source", "target") for n in range(1, 51)]
WHOLE = {
    "DPDD": dpdd({"train": 350, "val": 74, "test": 76}),
    "DPDD repack": [
        f"test/DPDD/{side}/{n}.png"
        for side in ("inputC", "inputL", "inputR", "target")
        for n in range(76)
    ],
    "RealDOF": REALDOF,
    "LFDOF": lfdof("test", 50, 725),
    "CUHK": [f"out_of_focus{n:04}.jpg" for n in range(1, 705)],
    "PixelDP": [f"test_{view}/{n}.jpg" for view in "clr" for n in range(13)],
}


@pytest.mark.parametrize("dataset", WHOLE)
def test_published_counts(tmp_path, dataset):
    names = WHOLE[dataset]
    report = check_data(touch(tmp_path, *names), decode=False)
    assert report.dataset == dataset
    assert report.problems == report.other_files == ()
    assert sum(n for split in report.splits for n in split.files.values()) == len(names)
    assert all(split.files == split.published for split in report.splits)
    (tmp_path / names[-1]).unlink()
    report = check_data(tmp_path, decode=False)
    counts = [problem for problem in report.problems if problem.kind == "count"]
    assert [problem.splits for problem in counts] == [("test",)]
    files, published = report.splits[-1].files, report.splits[-1].published
    side = next(side for side in files if files[side] != published[side])
    expected = f"{published[side] - 1} {side} images instead of {published[side]}"
    assert counts[0].message == expected
    assert f"{published[side] - 1} of {published[side]}" in "\n".join(report_lines(report))


@pytest.mark.slow
def test_published_counts_of_the_largest_split(tmp_path):
    touch(tmp_path, *lfdof("train", 790, 11_261))
    report = check_data(tmp_path, decode=False)
    assert (report.problems, report.absent) == ((), ("test",))
    assert report.splits[0].files == {"blurred": 11_261, "sharp": 790}
    assert report.splits[0].pairs == 11_261
    (tmp_path / "train_data/input/IMG_0789/IMG_0789_ap1_00.png").unlink()
    assert problems(tmp_path, decode=False) == [
        ("count", ("train",), "11260 blurred images instead of 11261")
    ]


def test_a_split_that_is_not_there_is_told_and_not_wrong(tmp_path):
    report = check_data(touch(tmp_path, *dpdd({"test": 76})), decode=False)
    assert report.absent == ("train", "val")
    assert report.problems == ()
    assert "missing splits: train, val" in report_lines(report)


def test_what_has_no_published_count_is_never_miscounted(tmp_path):
    make(tmp_path / "pairs", "source/a.png", "target/b.png")
    make(tmp_path / "images", "a.png", "b.png")
    make(tmp_path / "sample", "input/IMG_1.png", "ground_truth/IMG_1.png")
    make(tmp_path / "crops" / "train" / "DPDD", *(f"{f}/a.png" for f in ("inputC", "target")))
    for folder in tmp_path.iterdir():
        assert problems(folder) == []


def test_a_missing_file_where_names_tell(tmp_path):
    make(tmp_path, "source/1.png", "source/2.png", "source/3.png", "target/1.png", "target/3.png")
    (problem,) = check_data(tmp_path).problems
    assert problem.kind == "pairs"
    assert problem.message.endswith("3 in source, 2 in target; without a partner: 2")
    assert problem.paths == ("source/2.png",)
    assert check_data(tmp_path).splits[0].pairs == 2


def test_a_missing_file_where_order_tells(tmp_path):
    touch(tmp_path, *dpdd({"test": 76}))
    (tmp_path / "test_l/source/1P0A0001.png").unlink()
    assert problems(tmp_path, decode=False) == [
        ("count", ("test",), "75 left images instead of 76"),
        (
            "pairs",
            ("test",),
            "dpdd_dual_pixel: 75 in test_l/source, 76 in test_r/source; none of their names match",
        ),
    ]


def test_a_missing_file_on_each_side_shifts_the_order(tmp_path):
    touch(tmp_path, *(name for name in REALDOF if name not in ("source/07.png", "target/12.png")))
    found = check_data(tmp_path, decode=False).problems
    assert [problem.kind for problem in found] == ["count", "count", "pairs"]
    assert found[-1].message.endswith("without a partner: 07, 12")
    assert set(found[-1].paths) == {"source/12.png", "target/07.png"}


def test_names_that_all_differ_are_paired_by_order_without_complaint(tmp_path):
    make(tmp_path, "source/b1.png", "source/b2.png", "target/s1.png", "target/s2.png")
    assert problems(tmp_path) == []


def test_a_missing_ground_truth_of_lfdof(tmp_path):
    make(
        tmp_path, "mine/input/IMG_1/a.png", "mine/input/IMG_2/a.png", "mine/ground_truth/IMG_2.png"
    )
    (problem,) = check_data(tmp_path / "mine").problems
    assert "not in both input and ground_truth: IMG_1" in problem.message
    assert problem.paths == ("input/IMG_1/a.png",)


def test_an_image_beside_the_scenes(tmp_path):
    make(tmp_path, "input/IMG_1/a.png", "ground_truth/IMG_1.png", "input/IMG_2.png")
    ((kind, splits, message),) = problems(tmp_path)
    assert (kind, splits) == ("pairs", ("all",))
    assert "contains scene folders and also IMG_2.png" in message


def test_empty_and_missing_folders(tmp_path):
    touch(tmp_path, *dpdd({"test": 76}))
    for path in (tmp_path / "test_c/target").iterdir():
        path.unlink()
    messages = [message for _, _, message in problems(tmp_path, decode=False)]
    assert messages[0] == "0 sharp images instead of 76"
    assert len(messages) == 3  # without targets there are neither pairs of one view nor of two
    assert all("no images in" in message for message in messages[1:])
    (tmp_path / "test_c/target").rmdir()
    messages = [message for _, _, message in problems(tmp_path, decode=False)]
    assert messages[1] == "dpdd: no folder target in test_c, which contains source"


def test_an_unknown_layout_is_no_report(tmp_path):
    make(tmp_path, "raw/a.png")
    with pytest.raises(UserError, match="no data set recognized"):
        run_check(tmp_path, as_json=False)


def test_sizes_within_a_pair(tmp_path):
    make(tmp_path, "source/a.png", "source/b.png", "target/b.png")
    make(tmp_path, "target/a.png", size=(4, 5))
    assert problems(tmp_path) == [
        ("size", ("all",), "source/a.png is 5 x 4, target/a.png is 4 x 5"),
    ]
    assert problems(tmp_path, decode=False) == []


def test_views_of_other_sizes_and_depths(tmp_path):
    make(tmp_path, *(f"{side}/a.png" for side in ("inputC", "inputL", "target")))
    make(tmp_path, "inputR/a.png", bits=16, size=(6, 4))
    make(tmp_path, "inputC/b.png", "inputL/b.png", "inputR/b.png", "target/b.png", bits=16)
    assert problems(tmp_path) == [
        ("size", ("all",), "inputL/a.png is 5 x 4, inputR/a.png is 6 x 4, target/a.png is 5 x 4"),
        ("depth", ("all",), "inputL/a.png is 8 bits, inputR/a.png is 16 bits"),
    ]


def test_bit_depths_are_told(tmp_path):
    make(tmp_path, "source/a.png", "source/b.png", "target/a.png", bits=16)
    make(tmp_path, "target/b.png")
    report = check_data(tmp_path)
    assert report.problems == ()
    assert report.splits[0].bit_depths == {"8": 1, "16": 3}
    assert "8: 1, 16: 3" in report_lines(report)[4]
    assert check_data(tmp_path, decode=False).splits[0].bit_depths == {}


def test_files_that_do_not_decode(tmp_path):
    make(tmp_path, *(f"{side}/{name}.png" for side in ("source", "target") for name in "abc"))
    data = (tmp_path / "source/a.png").read_bytes()
    (tmp_path / "source/a.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "target/b.png").write_text("<html>404</html>")
    (tmp_path / "target/c.png").write_bytes(b"")
    report = check_data(tmp_path)
    assert [problem.kind for problem in report.problems] == ["unreadable"] * 3
    assert [problem.paths for problem in report.problems] == [
        ("source/a.png",),
        ("target/b.png",),
        ("target/c.png",),
    ]
    messages = [problem.message for problem in report.problems]
    assert messages[0].startswith("source/a.png: damaged or cut short")
    assert "not an image" in messages[1]
    assert "empty" in messages[2]
    assert report.splits[0].bit_depths == {"8": 3}
    assert report.splits[0].pairs == 3


def test_duplicates_between_splits_by_their_pixels(tmp_path):
    make(tmp_path, *lfdof("train", 2, 4), *lfdof("test", 2, 4))
    source = tmp_path / "train_data/input/IMG_0000/IMG_0000_ap1_01.png"
    copy = tmp_path / "test_data/input/IMG_0001/IMG_0001_ap1_00.png"
    Image.open(source).save(copy, compress_level=0)
    assert source.read_bytes() != copy.read_bytes()
    duplicates = [p for p in check_data(tmp_path).problems if p.kind == "duplicate"]
    names = tuple(str(path.relative_to(tmp_path)) for path in (source, copy))
    assert [(p.splits, p.paths) for p in duplicates] == [(("train", "test"), names)]
    assert all(name in duplicates[0].message for name in names)
    rows = [line.split() for line in report_lines(check_data(tmp_path))[4:6]]
    assert [(row[0], row[-1]) for row in rows] == [("train", "3"), ("test", "3")]


def test_other_images_are_no_duplicates(tmp_path):
    # The same bytes of pixels, yet of another shape.
    values = np.arange(24, dtype=np.uint8)
    for split, shape in (("train", (2, 4, 3)), ("test", (4, 2, 3))):
        for side in ("source", "target"):
            path = tmp_path / f"{split}_c" / side / "a.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(values.reshape(shape)).save(path)
    assert {kind for kind, *_ in problems(tmp_path)} == {"count"}


def test_files_beside_the_images_are_told_and_not_wrong(tmp_path):
    make(tmp_path, "source/a.png", "target/a.png")
    touch(tmp_path, "source/Thumbs.db", "source/._a.png", "target/b.psd", "readme.txt")
    (tmp_path / "source/folder").mkdir()
    report = check_data(tmp_path)
    assert report.other_files == ("source/Thumbs.db", "target/b.psd")
    assert report.problems == ()
    assert any("source/Thumbs.db" in line for line in report_lines(report))


def test_a_link_to_nothing_is_wrong(tmp_path):
    make(tmp_path, "source/a.png", "source/b.png", "target/a.png")
    (tmp_path / "target/b.png").symlink_to("nowhere.png")
    report = check_data(tmp_path)
    assert any("target/b.png" in str(problem) for problem in report.problems)
    assert report.other_files == ()


def test_a_thousand_strays_cost_little(tmp_path):
    make(tmp_path, "source/a.png", "target/a.png")
    touch(tmp_path, *(f"source/{n}.txt" for n in range(1000)))
    started = time.process_time()
    report = check_data(tmp_path)
    assert time.process_time() - started < 2
    assert len(report.other_files) == 1000
    assert any(line.endswith("and 995 more") for line in report_lines(report))


def test_links_that_go_round_end(tmp_path):
    make(tmp_path, "test_data/input/IMG_1/a.png", "test_data/ground_truth/IMG_1.png")
    (tmp_path / "test_data/input/IMG_1/up").symlink_to(tmp_path)
    (tmp_path / "test_data/input/IMG_1/self.png").symlink_to("self.png")
    report = check_data(tmp_path)
    assert report.splits[0].files == {"blurred": 2, "sharp": 1}
    assert any("IMG_1/self.png" in str(problem) for problem in report.problems)


def test_many_problems_of_a_kind_are_cut_short_in_the_table_alone(tmp_path):
    make(tmp_path, *(f"source/{n:02}.png" for n in range(13)))
    make(tmp_path, *(f"target/{n:02}.png" for n in range(13)), size=(7, 7))
    report = check_data(tmp_path)
    lines = report_lines(report)
    assert len(report.problems) == 13
    assert sum(line.startswith("size (all)") for line in lines) == 10
    assert "size: 3 more, see the JSON report" in lines
    assert lines[-1] == "13 errors (checked names, counts and all pixels)"


def test_status_and_table(tmp_path, capsys):
    make(tmp_path, "source/a.png", "target/a.png")
    assert run_check(tmp_path, as_json=False) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        f"pairs in {tmp_path} (layout pairs)",
        "",
        "split  blurred  sharp  pairs  bits  errors",
        "-----  -------  -----  -----  ----  ------",
        "all          1      1      1     8       0",
        "",
        "all: paired by name, first: a <-> a, last: a <-> a",
        "no errors (checked names, counts and all pixels)",
    ]
    assert said.err == ""
    make(tmp_path, "target/a.png", size=(1, 1))
    assert run_check(tmp_path, as_json=False) == CHECKED_AND_WRONG == 1
    assert run_check(tmp_path, as_json=False, decode=False) == 0


def test_json(tmp_path, capsys):
    touch(tmp_path, *dpdd({"test": 75}))
    assert run_check(tmp_path, as_json=True, decode=False) == CHECKED_AND_WRONG
    report = json.loads(capsys.readouterr().out)
    assert report["whole"] is False
    assert report["dataset"] == "DPDD"
    assert report["absent"] == ["train", "val"]
    sides = ("blurred", "left", "right", "sharp")
    assert report["splits"] == [
        {
            "split": "test",
            "layouts": ["dpdd", "dpdd_dual_pixel"],
            "files": dict.fromkeys(sides, 75),
            "published": dict.fromkeys(sides, 76),
            "pairs": 75,
            "paired": {
                "dpdd": "paired by order, first: 1P0A0000 <-> 1P0A0003, "
                "last: 1P0A0296 <-> 1P0A0299",
                "dpdd_dual_pixel": "paired by order, first: 1P0A0001 <-> 1P0A0002 <-> 1P0A0003, "
                "last: 1P0A0297 <-> 1P0A0298 <-> 1P0A0299",
            },
            "bit_depths": {},
        }
    ]
    assert report["problems"][0] == {
        "kind": "count",
        "splits": ["test"],
        "message": "75 blurred images instead of 76",
        "paths": [],
    }


def test_names_that_are_not_utf8_can_be_printed(tmp_path):
    make(tmp_path, "a.png")
    (tmp_path / "b\udce9.png").write_bytes(b"no image")
    report = check_data(tmp_path)
    assert [problem.kind for problem in report.problems] == ["unreadable"]
    for text in ("\n".join(report_lines(report)), report_json(report)):
        assert b"b\\udce9.png" in text.encode()


def test_real_folders(shared):
    sample = check_data(shared / "data/lfdof_sample")
    assert (sample.dataset, sample.problems) == ("LFDOF sample", ())
    assert sample.splits[0].files == {"blurred": 3, "sharp": 3}
    views = check_data(shared / "data/dual_pixel_sample")
    assert (views.dataset, views.splits[0].bit_depths) == ("pairs", {"16": 6})
