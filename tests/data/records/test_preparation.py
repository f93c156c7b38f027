"""Interrupted preparations are real processes that are killed, and end like undisturbed ones."""

import hashlib
import json
import os
import shlex
import sys

import pytest
import tensorflow_datasets as tfds

from tests import made_up_data
from tests.forked import run_program
from tests.made_up_data import DATA_SETS
from vitdeblur_jax.data.records.builders import BUILDERS
from vitdeblur_jax.data.records.preparation import prepare, training_flags
from vitdeblur_jax.data.sources import PreparedSource
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.hosts import this_host

COUNT = 27  # four files of records


@pytest.fixture
def data(tmp_path):
    made_up_data.pairs(tmp_path / "data", count=COUNT)
    return tmp_path / "data"


def contents(folder, split="train") -> list[tuple[str, bytes, bytes]]:
    examples = PreparedSource(folder, split)
    return [(e["name"], e["blurred"].tobytes(), e["sharp"].tobytes()) for e in examples]


def digests(folder) -> dict[str, str]:
    paths = folder.glob("[!.]*array_record*")  # no temporaries
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def names(folder, split="train") -> list[str]:
    return [example["name"] for example in PreparedSource(folder, split)]


@pytest.mark.parametrize("name", BUILDERS)
def test_each_data_set_is_recognised_and_prepared(name, tmp_path):
    root = tmp_path / ("CUHK" if name == "cuhk" else "RealDOF" if name == "realdof" else "data")
    counts = DATA_SETS[name](root)
    folder = prepare(root, None, tmp_path / "out")
    config = BUILDERS[name].BUILDER_CONFIGS[0].name
    assert folder == tmp_path / "out" / name / config / "1.0.0"
    for split, count in counts.items():
        assert len(PreparedSource(folder, split)) == count
    by_name = tfds.builder(name, data_dir=tmp_path / "out")
    assert {s: info.num_examples for s, info in by_name.info.splits.items()} == counts


def test_prepare_says_how_pairs_were_made(tmp_path, capsys):
    DATA_SETS["dpdd"](tmp_path / "data")
    prepare(tmp_path / "data", None, tmp_path / "out")
    line = "test: paired by order, first: 1P0A0100 <-> 1P0A0101, last: 1P0A0102 <-> 1P0A0103"
    assert line in capsys.readouterr().err.splitlines()


def test_names_that_are_not_utf8_are_prepared(tmp_path):
    made_up_data.pairs(tmp_path / "data", count=1)
    name = os.fsdecode(b"caf\xe9")
    for folder in ("blurred", "sharp"):
        (tmp_path / f"data/{folder}/photo000.png").rename(tmp_path / f"data/{folder}/{name}.png")
    assert names(prepare(tmp_path / "data", None, tmp_path / "out")) == [name]


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("dpdd", ""),
        ("lfdof", "--config.validation.split=test"),
        ("paired_folder", "--config.validation.every=0"),
    ],
)
def test_the_flags_to_train_with_are_told(tmp_path, name, flags):
    DATA_SETS[name](tmp_path / "data of mine")
    config = "dual_pixel_8bit" if name == "dpdd" else None
    folder = prepare(tmp_path / "data of mine", None, tmp_path / "my out", config=config)
    want = ["--config.data.kind=prepared", f"--config.data.root={folder}"]
    want += ["--config.data.hold_out=0"]
    want += ["--config.model.views=2"] * (name == "dpdd") + flags.split()
    assert shlex.split(training_flags(folder)) == want


def test_what_is_only_tested_has_no_flags_to_train_with(tmp_path):
    DATA_SETS["realdof"](tmp_path / "RealDOF")
    assert training_flags(prepare(tmp_path / "RealDOF", None, tmp_path / "out")) == ""


def test_records_are_those_of_the_builder(data, tmp_path):
    builder = tfds.builder("paired_folder", data_dir=tmp_path / "tfds", file_format="array_record")
    tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(manual_dir=data)
    builder.download_and_prepare(download_config=config)
    assert contents(builder.data_dir) == contents(prepare(data, None, tmp_path / "ours"))


def test_equal_input_gives_equal_bytes(data, tmp_path):
    one, other = (prepare(data, None, tmp_path / out) for out in ("one", "other"))
    assert digests(one) == digests(other)
    assert len(digests(one)) == 4
    assert names(one) == [f"photo{i:03}" for i in range(COUNT)]


@pytest.mark.parametrize("killed_at", [0, 8, 13, 26])
def test_killed_and_started_again_ends_the_same(killed_at, data, tmp_path):
    program = f"""
import os, signal
from vitdeblur_jax.data.records import preparation, shards
serialized = shards._serialized
def killed(builder, shard, record):
    if record == {killed_at}:
        os.kill(os.getpid(), signal.SIGKILL)
    return serialized(builder, shard, record)
shards._serialized = killed
shards._AHEAD = 1
preparation.prepare({str(data)!r}, None, {str(tmp_path / "out")!r})
"""
    assert run_program(["-c", program], tmp_path).returncode == -9
    finished = tmp_path / "out/paired_folder/8bit/1.0.0"
    unfinished = finished.with_name("1.0.0.unfinished")
    assert not finished.exists()
    assert len(digests(unfinished)) == killed_at // 8
    with pytest.raises(UserError, match=r"no dataset_info\.json"):
        PreparedSource(unfinished, "train")
    before = {path: path.stat().st_mtime_ns for path in unfinished.glob("[!.]*array_record*")}
    assert prepare(data, None, tmp_path / "out") == finished
    assert digests(finished) == digests(prepare(data, None, tmp_path / "undisturbed"))
    kept = {path: (finished / path.name).stat().st_mtime_ns for path in before}
    assert kept == before
    assert not list(finished.glob(".*"))
    assert not unfinished.exists()


def test_half_written_records_are_not_taken_for_whole(data, tmp_path):
    break_image(data, 20)
    with pytest.raises(UserError, match="photo020"):
        prepare(data, None, tmp_path / "out")
    unfinished = tmp_path / "out/paired_folder/8bit/1.0.0.unfinished"
    third = "paired_folder-train.array_record-00002-of-00004"
    (unfinished / third).write_bytes(b"half of it")
    dead = 2**22 + 1  # no process has such a number
    (unfinished / f".{third}.{this_host()}-{dead}-0123abcd.tmp").write_bytes(b"left behind")
    (unfinished / "paired_folder-train.array_record-00000-of-00099").write_bytes(b"another plan")
    made_up_data.write(data / "blurred/photo020.png", 40)
    folder = prepare(data, None, tmp_path / "out")
    assert digests(folder) == digests(prepare(data, None, tmp_path / "undisturbed"))
    assert {path.name for path in folder.iterdir()} == {
        *digests(folder), "dataset_info.json", "features.json", "LICENSE", "preparation.json"
    }  # fmt: skip


def test_files_that_changed_meanwhile_are_read_again(data, tmp_path):
    break_image(data, 20)
    with pytest.raises(UserError):
        prepare(data, None, tmp_path / "out")
    made_up_data.write(data / "blurred/photo020.png", 40)
    made_up_data.write(data / "sharp/photo003.png", 12345)
    folder = prepare(data, None, tmp_path / "out")
    assert contents(folder) == contents(prepare(data, None, tmp_path / "undisturbed"))


def test_what_is_done_stays_done_behind_what_is_not(data, tmp_path):
    break_image(data, 26)
    with pytest.raises(UserError, match="photo026"):
        prepare(data, None, tmp_path / "out")
    unfinished = tmp_path / "out/paired_folder/8bit/1.0.0.unfinished"
    before = {path.name: path.stat().st_mtime_ns for path in unfinished.glob("*-0000[12]-*")}
    break_image(data, 3)
    with pytest.raises(UserError, match="photo003"):
        prepare(data, None, tmp_path / "out")
    for number in (3, 26):
        made_up_data.write(data / f"blurred/photo{number:03}.png", 2 * number)
    folder = prepare(data, None, tmp_path / "out")
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before
    assert len(before) == 2
    assert digests(folder) == digests(prepare(data, None, tmp_path / "undisturbed"))


def test_a_whole_one_is_kept_and_never_replaced(data, tmp_path):
    folder = prepare(data, None, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert prepare(data, None, tmp_path / "out") == folder
    made_up_data.write(data / "sharp/photo003.png", 12345)
    with pytest.raises(UserError, match=r"was prepared from other files.*00000-of-00004.*delete"):
        prepare(data, None, tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    for text in ("[" * 100_000, "[]", "null", '"x"', "{}", '{"a": 3}'):
        (folder / "preparation.json").write_text(text)
        with pytest.raises(UserError, match="was prepared from other files"):
            prepare(data, None, tmp_path / "out")


def test_a_broken_image_is_named(data, tmp_path):
    break_image(data, 11)
    with pytest.raises(UserError, match=r"blurred/photo011.png.*--skip-broken") as raised:
        prepare(data, None, tmp_path / "out")
    assert "\n" not in str(raised.value)


def test_broken_ones_are_skipped_if_asked_for_and_told(data, tmp_path, capsys):
    for number in (11, *range(16, 24)):  # the third file of records is left with none
        break_image(data, number)
    made_up_data.write(data / "sharp/photo002.png", 1, size=(8, 9))
    folder = prepare(data, None, tmp_path / "out", skip_broken=True)
    told = capsys.readouterr().err
    left_out = {2, 11, *range(16, 24)}
    assert all(f"photo{number:03}.png" in told for number in left_out)
    assert "sizes differ" in told
    assert names(folder) == [f"photo{i:03}" for i in range(COUNT) if i not in left_out]


def test_what_was_skipped_is_looked_at_again(data, tmp_path):
    for number in (3, 20):
        break_image(data, number)
    out = tmp_path / "out"
    with pytest.raises(UserError, match="photo003"):
        prepare(data, None, out)
    program = f"""
import os, signal
from vitdeblur_jax.data.records import preparation
preparation._finish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
preparation.prepare({str(data)!r}, None, {str(out)!r}, skip_broken=True)
"""
    assert run_program(["-c", program], tmp_path).returncode == -9
    with pytest.raises(UserError, match="photo003"):
        prepare(data, None, out)
    assert len(names(prepare(data, None, out, skip_broken=True))) == COUNT - 2


def test_nothing_but_broken_images(tmp_path):
    made_up_data.pairs(tmp_path / "data")
    for number in range(3):
        break_image(tmp_path / "data", number)
    with pytest.raises(UserError, match="no image of the split train can be read"):
        prepare(tmp_path / "data", None, tmp_path / "out", skip_broken=True)


def test_patches_are_prepared_and_a_small_image_is_named(tmp_path):
    made_up_data.dpdd(tmp_path / "data", size=(520, 516), counts={"train": 1, "test": 1})
    config = "single_8bit_sharpest_patches"
    folder = prepare(tmp_path / "data", "dpdd", tmp_path / "out", config=config)
    assert len(names(folder)) == 3
    assert len(names(folder, "test")) == 1
    made_up_data.dpdd(tmp_path / "small")
    with pytest.raises(
        UserError, match=r"1P0A0100.png: 24 x 20 pixels; patches need at least 512 x 512"
    ):
        prepare(tmp_path / "small", "dpdd", tmp_path / "out2", config=config)


def test_unknown_names_and_missing_data(data, tmp_path):
    with pytest.raises(UserError, match=r"unknown data set, 'dpd' .did you mean 'dpdd'"):
        prepare(data, "dpd", tmp_path)
    with pytest.raises(UserError, match=r"unknown config of dpdd.*did you mean 'single_8bit'"):
        prepare(data, "dpdd", tmp_path, config="single_8")
    with pytest.raises(UserError, match=r"contains blurred, sharp. Download DPDD from http"):
        prepare(data, "dpdd", tmp_path)
    with pytest.raises(UserError, match="nowhere is not a folder"):
        prepare(tmp_path / "nowhere", None, tmp_path)


def test_out_cannot_be_written(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        prepare(data, None, tmp_path / "file")


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
def test_a_full_disk_is_one_line(data, tmp_path):
    program = f"""
import resource, signal
from vitdeblur_jax.data.records.preparation import prepare
from vitdeblur_jax.cli.process import exit_status
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
raise SystemExit(exit_status(lambda: prepare({str(data)!r}, None, {str(tmp_path / "out")!r})))
"""
    ended = run_program(["-c", program], tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith("error: ")
    assert "cannot be written" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_journal_tells_what_is_in_the_files(data, tmp_path):
    folder = prepare(data, None, tmp_path / "out")
    journal = json.loads((folder / "preparation.json").read_text())
    assert [entry["examples"] for entry in journal.values()] == [8, 8, 8, 3]
    assert journal.keys() == digests(folder).keys()


def break_image(data, number: int) -> None:
    path = data / f"blurred/photo{number:03}.png"
    path.write_bytes(path.read_bytes()[: os.path.getsize(path) // 2])
