"""Preparation by the workers of Apache Beam writes what it writes without, to the byte."""

import hashlib
import sys

import pytest

from tests import made_up_data
from tests.data.records.test_preparation import COUNT, break_image, digests
from vitdeblur_jax.cli.main import main
from vitdeblur_jax.data.records import beam, preparation, shards
from vitdeblur_jax.data.records.preparation import prepare
from vitdeblur_jax.data.sources import PreparedSource
from vitdeblur_jax.utils.errors import UserError

THREADS = ("--direct_num_workers=4", "--direct_running_mode=multi_threading")
PROCESSES = ("--direct_num_workers=4", "--direct_running_mode=multi_processing")


@pytest.fixture
def data(tmp_path):
    made_up_data.pairs(tmp_path / "data", count=COUNT)
    return tmp_path / "data"


@pytest.fixture
def found(monkeypatch) -> set[str]:
    """The files of records that were there before this process itself set to work."""
    found, write_shards = set(), preparation.write_shards

    def look_then_write(builder, shards, folder, skip_broken):
        found.update(digests(folder))
        return write_shards(builder, shards, folder, skip_broken)

    monkeypatch.setattr(preparation, "write_shards", look_then_write)
    return found


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def digest_of_sorted_records(folder) -> str:
    records = [
        b"".join((e["name"].encode(), e["blurred"].tobytes(), e["sharp"].tobytes()))
        for e in PreparedSource(folder, "train")
    ]
    return hashlib.sha256(b"".join(sorted(records))).hexdigest()


@pytest.mark.parametrize("options", [(), THREADS, pytest.param(PROCESSES, marks=pytest.mark.slow)])
def test_the_same_is_written_with_beam_and_without(options, data, found, tmp_path):
    with_beam = prepare(data, None, tmp_path / "beam", beam_options=options)
    assert len(found) == 4
    without = prepare(data, None, tmp_path / "plain")
    assert digest_of_sorted_records(with_beam) == digest_of_sorted_records(without)
    assert contents(with_beam) == contents(without)


def test_patches_and_splits_are_the_same(found, tmp_path):
    made_up_data.dpdd(tmp_path / "data", size=(520, 516), counts={"train": 2, "test": 1})
    config = "dual_pixel_8bit_all_patches"
    folders = [
        prepare(tmp_path / "data", "dpdd", tmp_path / out, config=config, beam_options=options)
        for out, options in (("beam", THREADS), ("plain", None))
    ]
    assert len(found) == 2
    assert contents(folders[0]) == contents(folders[1])
    assert len(PreparedSource(folders[0], "train")) == 8


def test_a_broken_image_is_named_as_without_beam(data, found, tmp_path):
    break_image(data, 20)
    with pytest.raises(UserError) as with_beam:
        prepare(data, None, tmp_path / "beam", beam_options=THREADS)
    with pytest.raises(UserError) as without:
        prepare(data, None, tmp_path / "plain")
    assert str(with_beam.value) == str(without.value)
    assert "photo020.png" in str(without.value)
    unfinished = tmp_path / "beam/paired_folder/8bit/1.0.0.unfinished"
    before = {path.name: path.stat().st_mtime_ns for path in unfinished.glob("*array_record*")}
    assert len(before) == 3

    made_up_data.write(data / "blurred/photo020.png", 40)
    found.clear()
    folder = prepare(data, None, tmp_path / "beam", beam_options=THREADS)
    assert len(found) == 4
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before
    assert contents(folder) == contents(prepare(data, None, tmp_path / "plain"))


def test_broken_ones_are_skipped_and_told_as_without_beam(data, found, tmp_path, capsys):
    for number in (11, *range(16, 24)):
        break_image(data, number)
    told, written = [], []
    for out, options in (("beam", THREADS), ("plain", None)):
        folder = prepare(data, None, tmp_path / out, skip_broken=True, beam_options=options)
        written.append(contents(folder))
        told.append(capsys.readouterr().err)
    assert len(found) == 4
    assert written[0] == written[1]
    assert told[0] == told[1]
    assert told[0].count("left out: ") == 9


def test_the_command_hands_the_rest_of_the_line_to_beam(data, tmp_path, capsys):
    root, out = str(data), str(tmp_path / "out")
    assert main(["data", "prepare", root, out, "--set", "paired_folder", "--beam", *THREADS]) == 0
    folder = tmp_path / "out/paired_folder/8bit/1.0.0"
    assert capsys.readouterr().err.splitlines()[-2] == f"written: {folder}"
    assert len(PreparedSource(folder, "train")) == COUNT


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--direct_num_worker=4", "unknown option.*mean '--direct_num_workers'"),
        ("--skip-broken", "unknown option '--skip-broken'.*put other options before it"),
        ("--direct_num_workers=many", "--direct_num_workers: invalid int value: 'many'"),
        ("--runner=NobodysRunner", "NobodysRunner. Valid values are .*DirectRunner"),
        ("--runner=nobodys.Runner", "nobodys"),
    ],
)
def test_a_wrong_option_is_one_line_and_nothing_is_written(option, said, data, tmp_path):
    with pytest.raises(UserError, match=said) as raised:
        prepare(data, None, tmp_path / "out", beam_options=[option])
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_without_beam_its_extra_is_named(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"pip install 'vitdeblur_jax\[beam\]'"):
        prepare(data, None, tmp_path / "out", beam_options=[])
    assert not (tmp_path / "out").exists()
    prepare(data, None, tmp_path / "out")


def test_a_worker_that_does_not_see_the_folders_says_so(data, tmp_path):
    def work(number: int) -> None:
        shards._write_on_worker(None, [], data, tmp_path / "elsewhere", False, number)

    with pytest.raises(UserError, match=r"a worker has no access to .*elsewhere") as raised:
        beam.run_for_each(beam.make_pipeline([]), work, 3)
    assert "\n" not in str(raised.value)


def test_an_address_is_no_folder(data, tmp_path):
    with pytest.raises(UserError, match=r"gs://bucket/out is not a folder.*mount"):
        prepare(data, None, "gs://bucket/out", beam_options=[])
    with pytest.raises(UserError, match=r"s3://bucket is not a folder.*mount"):
        prepare("s3://bucket", None, tmp_path)
