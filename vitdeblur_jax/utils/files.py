"""Atomic writes: a file or folder appears complete or not at all.

A file or folder is written under a temporary name beside its target, `.TARGET.HOST-PID-RANDOM.tmp`,
and renamed to the target once it is complete. If the process is killed, the temporary remains. The
next process that writes into the same folder removes it. A file in a bucket is written on the local
disk and uploaded once it is complete.
"""

import contextlib
import ctypes
import errno
import functools
import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from vitdeblur_jax.utils import signals
from vitdeblur_jax.utils.buckets import as_path, as_user_error, is_remote, upload
from vitdeblur_jax.utils.errors import ExistsError, UserError, one_line
from vitdeblur_jax.utils.hosts import has_ended, this_host

_TEMPORARY = re.compile(r"\.(.+)\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.(tmp|private)", re.DOTALL)
_LONGEST_NAME = 200  # bytes of the target's name in a temporary file's: 255 are allowed in all
_DAY = 24 * 3600
_NEW, _OLD = "new", "old"  # within a temporary folder
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100  # of linux/fs.h and fcntl.h
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)


def home_expanded(path: str) -> str:
    """Returns a path with a leading `~/` expanded to the home folder.

    Shells do not expand `~/` in `--option=~/folder`, so the command would create a folder named
    `~`.
    """
    return os.path.expanduser(path) if path == "~" or path.startswith("~/") else path


@contextlib.contextmanager
def replaced_when_whole(path: str | os.PathLike[str], overwrite: bool = True) -> Iterator[Path]:
    """Yields a temporary path beside `path` and renames it to `path` if the block succeeds.

    The new file gets the permissions of the file that it replaces. Without `overwrite`, a file that
    another process has created at `path` in the meantime is kept.

    After any failure, including Ctrl-C, the temporary is removed and `path` is unchanged. If `path`
    is a symbolic link, the link remains and the file that it points to is replaced.

    Raises:
      UserError: The block or the renaming failed with an `OSError` (a full disk, no permission).
    """
    write = _uploaded if is_remote(path) else _renamed
    with as_user_error(path):
        try:
            with write(path, overwrite) as temporary:
                yield temporary
        except FileExistsError as error:
            message = f"another process has written {path} in the meantime; --force overwrites it"
            raise ExistsError(message) from error


@contextlib.contextmanager
def _renamed(path, overwrite):
    target = Path(os.path.realpath(_absolute(path)))
    temporary = _temporary(target)
    try:
        remove_abandoned(target.parent)
        temporary.touch()
        mode = (target if target.exists() else temporary).stat().st_mode
        yield temporary
        temporary.chmod(mode)  # some libraries make their files private
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())  # a full disk may show only here
        if overwrite:
            os.replace(temporary, target)
        else:
            _rename_to_vacant(temporary, target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        del _in_use[temporary]


@contextlib.contextmanager
def _uploaded(path, overwrite):
    path = as_path(path)
    with tempfile.TemporaryDirectory() as scratch:
        temporary = Path(scratch) / path.name
        yield temporary
        upload(temporary, path, overwrite)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a UTF-8 text file atomically; see `replaced_when_whole`."""
    with replaced_when_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_absent(path: str | os.PathLike[str]) -> None:
    """Raises `UserError` if `path` exists, even as a broken link."""
    if os.path.lexists(path):
        raise UserError(f"{path} exists; give another name, or delete it first")


@contextlib.contextmanager
def folder_when_whole(
    path: str | os.PathLike[str],
    check: Callable[[str | os.PathLike[str]], None] = check_absent,
) -> Iterator[Path]:
    """Yields an empty temporary folder beside `path` and renames it to `path` on success.

    A folder at `path` that passes `check` is exchanged for the new one and deleted. The exchange is
    one atomic step where the system supports it. Elsewhere the old folder is moved away first, and
    `repair_folder` restores it if the process is killed at that moment.

    After any failure, including Ctrl-C, the temporary is removed and `path` is unchanged.

    Args:
      path: The folder to write.
      check: Raises `UserError` unless the content of `path` may be deleted. It is called before and
        after the block.

    Raises:
      UserError: `check` raised it, or the block or the renaming failed with an `OSError` (a full
        disk, no permission).
    """
    target = _absolute(path)
    check(path)
    temporary = _temporary(target)
    new, old = temporary / _NEW, temporary / _OLD
    try:
        remove_abandoned(target.parent)
        temporary.mkdir()
        new.mkdir()
        yield new
        check(path)
        _put_in_place(new, target, old)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({one_line(error)})") from error
    finally:
        if os.path.lexists(old) and not os.path.lexists(target):
            os.rename(old, target)
        shutil.rmtree(temporary, ignore_errors=True)
        del _in_use[temporary]


@contextlib.contextmanager
def private_folder(name: str) -> Iterator[Path]:
    """Yields an empty folder for temporary files that only this user can read, and removes it.

    It is in the system's temporary folder (TMPDIR). It is also removed when a signal ends the
    process; if the process is killed, the next one on this machine that calls this function removes
    it. Others never do: a folder may be in use for days without a change.

    Raises:
      UserError: The folder cannot be created.
    """
    target = Path(tempfile.gettempdir()).absolute() / name
    remove_abandoned(target.parent)
    folder = _temporary(target, "private")
    try:
        with as_user_error(folder):
            folder.mkdir(mode=0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        del _in_use[folder]


def repair_folder(path: str | os.PathLike[str]) -> None:
    """Restores the folder at `path` if a process was killed while it replaced that folder."""
    target = _absolute(path)
    if not os.path.lexists(target):
        with contextlib.suppress(OSError):
            _remove_abandoned(target.parent)


@functools.cache
def remove_abandoned(folder: Path) -> None:
    """Removes the temporaries in `folder` whose writers are dead; runs once per process.

    A writer on this machine is dead if no process has its id. A writer on another machine that
    shares the disk counts as dead when its temporary is a day old, unless it is a private folder.
    """
    with contextlib.suppress(OSError):
        _remove_abandoned(folder)


def _remove_abandoned(folder):
    with os.scandir(folder) as entries:
        found = [(Path(entry.path), _TEMPORARY.fullmatch(entry.name)) for entry in entries]
    for path, parts in found:
        if parts and _is_abandoned(path, *parts.groups()[1:]):
            _remove_temporary(path, folder / parts[1])


def _remove_temporary(path, target):
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    if os.path.lexists(path / _OLD) and not os.path.lexists(target):
        os.rename(path / _OLD, target)
    shutil.rmtree(path, ignore_errors=True)


def _is_abandoned(path, host, pid, suffix):
    if host != this_host():
        return suffix == "tmp" and time.time() - path.lstat().st_mtime > _DAY
    return has_ended(int(pid))


def _temporary(target, suffix="tmp"):
    name = os.fsdecode(os.fsencode(target.name)[:_LONGEST_NAME])
    path = target.parent / f".{name}.{this_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.{suffix}"
    _in_use[path] = target
    return path


def _remove_those_in_use():
    """Removes the temporaries of this process before a signal ends it."""
    for path, target in list(_in_use.items()):
        with contextlib.suppress(OSError):
            _remove_temporary(path, target)


_in_use: dict[Path, Path] = {}  # targets by their temporaries
signals.before_end(_remove_those_in_use)


def _absolute(path):
    if "\0" in os.fsdecode(path):
        raise UserError(f"{os.fsdecode(path)!r}: a path cannot hold a NUL character")
    return Path(os.path.abspath(path))


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file's content, in lower case."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _rename_to_vacant(temporary, target):
    """Renames a file; raises `FileExistsError` if another process has written the target."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:  # the disk has no hard links
        if os.path.lexists(target):
            raise FileExistsError from None
        os.replace(temporary, target)
    else:
        os.unlink(temporary)


def _put_in_place(new, target, old):
    """Renames `new` to `target`; an existing folder moves to `new` or `old`."""
    if not os.path.lexists(target):
        os.rename(new, target)
    elif not _exchange(new, target):
        os.rename(target, old)
        os.rename(new, target)


def _exchange(one, other):
    """Exchanges two folders atomically; returns False if the system has no such call."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    paths = [os.fsencode(path) for path in (one, other)]
    if rename(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code))


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raises `UserError` if `path` is a pipe, device or socket, whose reading may never end."""
    if is_remote(path):
        return
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)})") from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise UserError(f"{path} is not a regular file; copy its data into one")
