"""The folders in the user's cache."""

import stat
import sys
from pathlib import Path

import pytest

from vitdeblur_jax.utils.caches import make_own_cache, own_cache, user_caches


@pytest.mark.parametrize(
    ("system", "folder"),
    [("linux", ".cache"), ("darwin", "Library/Caches"), ("win32", "AppData/Local")],
)
def test_each_platform_has_its_folder(tmp_path, monkeypatch, system, folder):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    assert user_caches() == tmp_path / folder


@pytest.mark.parametrize("given", ["relative", ""])
def test_a_relative_folder_counts_as_unset(tmp_path, monkeypatch, given):
    """As the XDG Base Directory Specification asks."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    assert own_cache("metrics") == tmp_path / ".cache/vitdeblur_jax/metrics"
    assert not (tmp_path / ".cache").exists()


def test_a_folder_is_made_for_the_user_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    folder = make_own_cache("checkpoints")
    assert folder == own_cache("checkpoints") == make_own_cache("checkpoints")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_no_home_folder_is_made(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    with pytest.raises(RuntimeError, match="there is no home folder"):
        make_own_cache("checkpoints")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert Path(make_own_cache("checkpoints")).is_dir()
