"""A checkpoint replaces only a checkpoint."""

import json
import os
import shutil
from pathlib import Path

import pytest

from vitdeblur_jax import (
    UserError,
    load_pretrained,
    save_pretrained,
)
from vitdeblur_jax.checkpoints import orbax_folders
from vitdeblur_jax.checkpoints.destinations import check_replaceable
from vitdeblur_jax.checkpoints.load_save import convert
from vitdeblur_jax.models.vitdeblur.configuration import base


def contents_of(folder):
    return {str(path.relative_to(folder)): path.is_file() for path in Path(folder).rglob("*")}


def a_step_of_a_run(folder):
    for item in ("variables", "config", "training", "position"):
        (folder / item).mkdir(parents=True)
    (folder / "config" / "metadata").write_text(json.dumps(base().to_dict()))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("holiday", "holds beach.jpg"),
        ("ours/variables", "holds .*, which is not part of a checkpoint"),
        ("checkpoint_and_a_photo", "holds variables/beach.jpg"),
        ("checkpoint_and_a_folder", "holds photos"),
        ("checkpoint_of_others", "holds no config of a network"),
        ("RUN", "holds checkpoints"),
        ("RUN/checkpoints", "holds 5, which"),
        ("RUN/checkpoints/5", "holds position"),
        ("link", "is a symbolic link"),
        ("link_to_nothing", "is a symbolic link"),
        (".", "is the working directory"),
        ("..", "is the working directory"),
        ("../here", "is the working directory"),
    ],
)
def test_only_a_checkpoint_is_deleted(small, small_folder, tmp_path, monkeypatch, name, told):
    here = tmp_path / "here"
    (here / "holiday").mkdir(parents=True)
    (here / "holiday" / "beach.jpg").touch()
    shutil.copytree(small_folder, here / "ours")
    for kind in ("a_photo", "a_folder"):
        shutil.copytree(here / "ours", here / f"checkpoint_and_{kind}")
    (here / "checkpoint_and_a_photo/variables/beach.jpg").touch()
    (here / "checkpoint_and_a_folder/photos").mkdir()
    (here / "checkpoint_of_others/variables").mkdir(parents=True)
    a_step_of_a_run(here / "RUN" / "checkpoints" / "5")
    (here / "link").symlink_to("ours")
    (here / "link_to_nothing").symlink_to("nothing")
    monkeypatch.chdir(here)
    before = contents_of(tmp_path)
    for refused in (
        lambda: save_pretrained(small, name, overwrite=True),
        lambda: save_pretrained(small, name),
        lambda: convert("ours", name, overwrite=True),
    ):
        with pytest.raises(UserError, match=f"{told}|exists; overwrite=True"):
            refused()
    with pytest.raises(UserError, match=told):
        check_replaceable(name)
    assert contents_of(tmp_path) == before


def test_an_empty_folder_and_a_checkpoint_are_replaced(small, tmp_path):
    (tmp_path / "folder").mkdir()
    for _ in range(2):
        with pytest.raises(UserError, match="exists; overwrite=True replaces it"):
            save_pretrained(small, tmp_path / "folder")
        save_pretrained(small, tmp_path / "folder", overwrite=True)
    assert load_pretrained(tmp_path / "folder").config == small.config


def test_files_added_during_a_replacement_are_kept(small, small_folder, tmp_path, monkeypatch):
    shutil.copytree(small_folder, tmp_path / "folder")
    photo = tmp_path / "folder" / "beach.jpg"
    monkeypatch.setattr(orbax_folders, "check_space", lambda *_: photo.touch())
    with pytest.raises(UserError, match=r"holds beach\.jpg"):
        save_pretrained(small, tmp_path / "folder", overwrite=True)
    assert (tmp_path / "folder" / "beach.jpg").exists()


def test_a_slash_after_the_name_of_a_file_is_refused(small, tmp_path):
    save_pretrained(small, tmp_path / "a.safetensors")
    for refused in (
        lambda: convert(tmp_path / "a.safetensors", f"{tmp_path}/x.pth/", overwrite=False),
        lambda: save_pretrained(small, f"{tmp_path}/x.safetensors/"),
    ):
        with pytest.raises(UserError, match="a folder has no ending"):
            refused()
    assert os.listdir(tmp_path) == ["a.safetensors"]
