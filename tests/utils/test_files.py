"""Files and folders that appear whole or not at all, and what killed writers leave behind."""

import errno
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from vitdeblur_jax.utils import files
from vitdeblur_jax.utils.errors import ExistsError, UserError
from vitdeblur_jax.utils.files import (
    check_regular,
    folder_when_whole,
    remove_abandoned,
    repair_folder,
    replaced_when_whole,
    write_text,
)
from vitdeblur_jax.utils.hosts import this_host
from vitdeblur_jax.utils.json_files import parse_json, read_json


@pytest.fixture(autouse=True)
def _as_in_a_new_process():
    remove_abandoned.cache_clear()


def left_by_a_killed_process(target, monkeypatch, suffix="tmp"):
    """Returns a temporary path of a process that is dead."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: dead.pid)
        return files._temporary(target, suffix)


def replace(folder, text):
    with folder_when_whole(folder, check=lambda path: None) as new:
        (new / "file").write_text(text)


def test_a_temporary_carries_the_name_of_its_target_and_its_writer(tmp_path):
    with replaced_when_whole(tmp_path / "a.txt") as temporary:
        assert temporary.name.startswith(".a.txt.")
        assert f"-{os.getpid()}-" in temporary.name
    with replaced_when_whole(tmp_path / ("ü" * 120)) as temporary:
        assert len(os.fsencode(temporary.name)) < 255
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "ü" * 120]


def test_what_a_killed_writer_left_is_removed_by_the_next_one(tmp_path, monkeypatch):
    left_by_a_killed_process(tmp_path / "a.txt", monkeypatch).write_text("half")
    folder = left_by_a_killed_process(tmp_path / "folder", monkeypatch)
    (folder / "new" / "d").mkdir(parents=True)
    living, foreign = files._temporary(tmp_path / "b.txt"), tmp_path / ".mine.tmp"
    other_machine = tmp_path / ".c.txt.00000000-1-00000000.tmp"
    for path in (living, foreign, other_machine):
        path.write_text("kept")
    write_text(tmp_path / "c.txt", "whole")
    kept = [living.name, foreign.name, other_machine.name, "c.txt"]
    assert sorted(os.listdir(tmp_path)) == sorted(kept)
    os.utime(other_machine, (0, 0))
    remove_abandoned.cache_clear()
    write_text(tmp_path / "c.txt", "whole")
    assert not other_machine.exists()


@pytest.mark.parametrize("has_exchange", [True, False])
def test_a_folder_is_exchanged_for_the_whole_new_one(tmp_path, monkeypatch, has_exchange):
    if not has_exchange:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    for text in ("first", "second"):
        replace(tmp_path / "folder", text)
        assert (tmp_path / "folder" / "file").read_text() == text
        assert os.listdir(tmp_path) == ["folder"]


def test_the_exchange_is_one_system_call_where_there_is_one(tmp_path, monkeypatch):
    replace(tmp_path / "folder", "first")
    monkeypatch.setattr(os, "rename", None)
    replace(tmp_path / "folder", "second")
    assert (tmp_path / "folder" / "file").read_text() == "second"


@pytest.mark.parametrize("repair", [repair_folder, lambda path: write_text(f"{path}.txt", "")])
def test_a_folder_moved_away_by_a_killed_process_is_put_back(tmp_path, monkeypatch, repair):
    temporary = left_by_a_killed_process(tmp_path / "folder", monkeypatch)
    for name in ("old", "new"):
        (temporary / name).mkdir(parents=True)
        (temporary / name / "file").write_text(name)
    repair(tmp_path / "folder")
    assert (tmp_path / "folder" / "file").read_text() == "old"
    assert not temporary.exists()


def test_an_interruption_within_a_folder_leaves_the_old_one(tmp_path, monkeypatch):
    replace(tmp_path / "folder", "first")
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    rename = os.rename

    def interrupted(source, target):
        rename(source, target)
        monkeypatch.setattr(os, "rename", rename)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replace(tmp_path / "folder", "second")
    assert (tmp_path / "folder" / "file").read_text() == "first"
    assert os.listdir(tmp_path) == ["folder"]


def test_a_folder_that_appears_meanwhile_is_kept(tmp_path):
    with pytest.raises(UserError, match="exists"), folder_when_whole(tmp_path / "folder"):
        (tmp_path / "folder" / "photos").mkdir(parents=True)
    assert os.listdir(tmp_path / "folder") == ["photos"]
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_that_appears_meanwhile_is_kept(tmp_path, monkeypatch, has_links):
    def no_links(*_):
        raise OSError(errno.EPERM, "no hard links")

    if not has_links:
        monkeypatch.setattr(os, "link", no_links)
    writing = replaced_when_whole(tmp_path / "a", overwrite=False)
    writing.__enter__().write_text("second")
    (tmp_path / "a").write_text("first")
    with pytest.raises(ExistsError):
        writing.__exit__(None, None, None)
    assert (tmp_path / "a").read_text() == "first"
    with replaced_when_whole(tmp_path / "b", overwrite=False) as new:
        new.write_text("alone")
    assert (tmp_path / "b").read_text() == "alone"
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_pipes_and_devices_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UserError, match="not a regular file"):
            check_regular(path)
        with pytest.raises(UserError, match="not a regular file"):
            read_json(path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' + "[" * 200 + "]" * 200 + "}", "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("[]", "a list; it must hold an object"),
        ('"x"', "a string; it must hold an object"),
        ("null", "null; it must hold an object"),
        ("3", "a number; it must hold an object"),
        ('{"a"', "damaged JSON"),
        ("", "damaged JSON"),
        ("9" * 5000, "damaged JSON"),
    ],
)
def test_json_that_is_no_shallow_object_is_told_in_one_line(tmp_path, text, told):
    path = tmp_path / "metrics.json"
    path.write_text(text)
    with pytest.raises(UserError, match=told) as refusal:
        read_json(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert len(str(refusal.value).removeprefix(str(path))) < 250
    with pytest.raises(UserError, match=told):
        parse_json(text, "x")


def test_json_is_read_as_it_was_written(tmp_path):
    write_text(tmp_path / "a.json", '{"psnr": Infinity, "name": "ü", "list": [[1]]}')
    assert read_json(tmp_path / "a.json") == {"psnr": float("inf"), "name": "ü", "list": [[1]]}
    (tmp_path / "b.json").write_bytes(b'{"a": "\xff"}')
    for name, told in (("b.json", "cannot be read"), ("c.json", "No such file")):
        with pytest.raises(UserError, match=told):
            read_json(tmp_path / name)


def test_a_private_folder_is_removed_in_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = left_by_a_killed_process(tmp_path / "page", monkeypatch, "private")
    (left / "folder").mkdir(parents=True)
    with files.private_folder("page") as folder:
        (folder / "file").write_text("private")
        assert folder.stat().st_mode & 0o777 == 0o700
        assert list(tmp_path.iterdir()) == [folder]
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(UserError, match="missing"), files.private_folder("page"):
        pass


def test_a_private_folder_of_another_machine_is_kept(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path))
        with files.private_folder("page") as folder:
            name = folder.name.replace(this_host(), "00000000")
    other = tmp_path / name
    other.mkdir()
    os.utime(other, (0, 0))
    remove_abandoned.cache_clear()
    write_text(tmp_path / "a.txt", "whole")
    assert other.exists()
