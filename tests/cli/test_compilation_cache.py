"""The cache of compiled programs of the command line."""

import os
import stat
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from PIL import Image

from vitdeblur_jax.cli import main
from vitdeblur_jax.cli.compilation_cache import (
    cpu_key,
    drop_oldest,
    use_compilation_cache,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """The user's caches; no variable of JAX about its cache is set."""
    for name in list(os.environ):
        if name.startswith(("JAX_COMPILATION", "JAX_PERSISTENT", "JAX_ENABLE_COMPILATION")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    with warnings.catch_warnings():  # restores filters and function
        yield tmp_path / "caches"


def used() -> str | None:
    """Returns the folder that JAX would use, imported now."""
    use_compilation_cache()
    return os.environ.get("JAX_COMPILATION_CACHE_DIR")


def test_the_cache_lies_in_the_users_folder(caches):
    folder = caches / "vitdeblur_jax" / f"programs-{cpu_key()}"
    assert used() == str(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("value", ["0", "false", "OFF"])
def test_a_variable_of_jax_turns_it_off(caches, monkeypatch, value):
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", value)
    assert used() is None
    assert not caches.exists()


def test_the_users_own_folder_is_kept(caches, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "mine")
    assert used() == "mine"
    assert not caches.exists()
    assert "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ


def test_a_folder_that_others_can_write_is_not_used(caches, monkeypatch):
    folder = Path(used())
    for level, mode in ((folder, 0o720), (folder, 0o702), (folder.parent, 0o777), (caches, 0o1777)):
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
        before = stat.S_IMODE(level.stat().st_mode)
        level.chmod(mode)
        assert used() is None, level
        level.chmod(before)
        assert used() == str(folder)


def test_a_folder_of_another_user_is_not_used(caches, monkeypatch):
    caches.mkdir()
    monkeypatch.setattr(os, "getuid", lambda: caches.stat().st_uid + 1)
    assert used() is None


@pytest.mark.parametrize("place", ["file", "/proc/self"])
def test_a_folder_that_cannot_be_made_is_no_error(tmp_path, caches, monkeypatch, place):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / place))
    assert used() is None


def test_a_read_only_folder_is_no_error(caches, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)  # root may write
    assert used() is None


def test_no_home_folder_is_no_error(tmp_path, caches, monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which counts as unset
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    assert used() is None
    assert not (tmp_path / "none").exists()
    monkeypatch.setattr(Path, "home", home)
    assert used() is None


def test_a_large_cache_loses_its_oldest_entries(tmp_path):
    for age, name in enumerate("dcba"):
        path = tmp_path / f"{name}-cache"
        path.write_bytes(bytes(10))
        os.utime(path, (1000 - age, 1000 - age))
    drop_oldest(tmp_path, 40)
    assert len(list(tmp_path.iterdir())) == 4
    drop_oldest(tmp_path, 39)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d-cache"]


@pytest.mark.parametrize(("arguments", "count"), [(None, 1), (["data", "check", "x"], 0)])
def test_only_a_command_that_owns_the_process_uses_it(monkeypatch, arguments, count):
    called = []
    monkeypatch.setattr(main, "use_compilation_cache", lambda: called.append(1))
    monkeypatch.setattr(main, "run_process", main.exit_status)
    monkeypatch.setattr(sys, "argv", ["vitdeblur", "data", "check", "x"])
    assert main.main(arguments) == 2
    assert len(called) == count


def new_process(program: str, caches: Path, *arguments: str) -> str:
    """Runs a program in a new interpreter; returns its output; it may print no error."""
    names = ("XDG_CACHE_HOME", "JAX_DISABLE_MOST_OPTIMIZATIONS", "PATH", "HOME")
    environment = {name: os.environ[name] for name in names if name in os.environ}
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Warning" not in ended.stderr
    assert "compilation cache" not in ended.stderr
    return ended.stdout


def test_a_broken_entry_is_replaced_without_a_word(caches):
    said = new_process(
        """
import os, shutil
from pathlib import Path
from vitdeblur_jax.cli.compilation_cache import use_compilation_cache
use_compilation_cache()
import jax
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
def hits():
    events.clear()
    jax.clear_caches()
    assert jax.jit(lambda x: 2 * x + 1)(3.0) == 7
    return events.count("/jax/compilation_cache/cache_hits")
folder = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
print(hits(), hits())
for damaged in b"", b"garbage":
    for path in folder.glob("*-cache"):
        path.write_bytes(damaged)
    print(hits(), hits())
shutil.rmtree(folder)
print(hits(), hits())
""",
        caches,
    )
    first, *damaged, gone = (line.split() for line in said.splitlines())
    assert first[0] == "0"
    assert int(first[1]) > 0
    for before, after in damaged:
        assert int(before) < int(after) == int(first[1])
    assert gone == ["0", "0"]


@pytest.mark.slow
def test_the_second_run_of_the_command_compiles_nothing(tmp_path, caches):
    Image.new("RGB", (150, 120), (90, 80, 70)).save(tmp_path / "a.png")
    program = """
import sys
from vitdeblur_jax.cli import main, restore
work = restore._restore
def restore_and_count(options):
    import jax
    events = []
    jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
    status = work(options)
    for end in "compile_requests_use_cache", "cache_hits":
        print(events.count(f"/jax/compilation_cache/{end}"))
    return status
restore._restore = restore_and_count
sys.exit(main.main())
"""
    counts, results = [], []
    for result in ("b.png", "c.png"):
        arguments = (str(tmp_path / "a.png"), "-o", str(tmp_path / result))
        counts.append([int(count) for count in new_process(program, caches, *arguments).split()])
        results.append((tmp_path / result).read_bytes())
    (compiled, _), (requested, hits) = counts
    assert 0 < compiled == requested == hits
    assert results[0] == results[1]
