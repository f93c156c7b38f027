"""Compiled programs, kept in the user's cache folder, so that only the first run compiles.

JAX reads and writes them; its key covers the program, the version of jaxlib, the device and the
compilation settings. The folder is one for each kind of CPU, because a home folder may be shared by
several machines. A compiled program is code, so the folder must belong to the user alone. A folder
that cannot be used is no error: programs are then compiled in each run.
"""

import contextlib
import hashlib
import os
import platform
import stat
import warnings
from pathlib import Path

from vitdeblur_jax.utils.caches import make_own_cache, user_caches

MAX_BYTES = 256 * 2**20
_FOLDER, _SWITCH = "JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"
_OFF = ("0", "false", "off", "no", "f", "n")  # as JAX reads its variables
_SETTINGS = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    # XLA's own caches; an error in one of them would be an error of the run.
    "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",
}
_ENTRIES = "*-cache"
_READ_ERROR, _WRITE_ERROR = (
    f"Error {verb} persistent compilation cache entry" for verb in ("reading", "writing")
)


def use_compilation_cache() -> None:
    """Makes JAX cache the programs of this process; call it before JAX is imported.

    Does nothing if JAX_COMPILATION_CACHE_DIR names another folder, or
    JAX_ENABLE_COMPILATION_CACHE=0 turns the cache off.
    """
    if _FOLDER in os.environ or os.environ.get(_SWITCH, "").lower() in _OFF:
        return
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: there is no home folder
        folder = make_own_cache(f"programs-{cpu_key()}")
        if not _is_private(folder, user_caches()):
            return
        drop_oldest(folder, MAX_BYTES)
        os.environ[_FOLDER] = str(folder)
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        _handle_warnings(folder)


def cpu_key() -> str:
    """Returns a short name for the kind of CPU; programs are compiled for its instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        described = "".join(sorted({x for x in lines if x.startswith(("model name", "flags"))}))
    except OSError:
        described = f"{platform.machine()} {platform.processor()}"
    return hashlib.sha256(described.encode()).hexdigest()[:12]


def _is_private(folder: Path, caches: Path) -> bool:
    """Returns whether only this user can write into the folder, and can."""
    if not os.access(folder, os.W_OK | os.X_OK):
        return False
    if not hasattr(os, "getuid"):  # Windows: the user's own profile
        return True
    levels = [folder, *folder.parents][: len(folder.relative_to(caches).parts) + 1]
    found = [level.stat() for level in levels]
    is_own = all(level.st_uid == os.getuid() for level in found)
    is_open = any(level.st_mode & stat.S_IWOTH for level in found)
    return is_own and not is_open and not found[0].st_mode & stat.S_IWGRP


def drop_oldest(folder: Path, max_bytes: int) -> None:
    """Deletes the oldest entries of a cache that is larger than `max_bytes`, down to half of it."""
    files = [(path.stat(), path) for path in folder.glob(_ENTRIES)]
    total = sum(status.st_size for status, _ in files)
    if total <= max_bytes:
        return
    for status, path in sorted(files, key=lambda file: file[0].st_mtime):
        path.unlink(missing_ok=True)
        total -= status.st_size
        if total <= max_bytes / 2:
            return


def _handle_warnings(folder: Path) -> None:
    """Hides JAX's warnings about the cache, and empties a cache with an entry that is broken.

    JAX never replaces an entry, so it would fail to read a broken one in each run.
    """
    show = warnings.showwarning

    def show_others(message, *where, **to):
        text = str(message)
        if text.startswith(_READ_ERROR):
            with contextlib.suppress(OSError):
                for path in folder.glob(_ENTRIES):
                    path.unlink(missing_ok=True)
        elif not text.startswith(_WRITE_ERROR):
            show(message, *where, **to)

    warnings.filterwarnings("always", f"{_READ_ERROR}|{_WRITE_ERROR}")
    warnings.showwarning = show_others
