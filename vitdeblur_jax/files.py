"""Files and folders that are whole or not there."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from vitdeblur_jax.errors import UserError, one_line


@contextlib.contextmanager
def replaced_when_whole(path: str | os.PathLike[str], overwrite: bool = True) -> Iterator[Path]:
    """Gives a temporary path beside `path`, which takes its place if the block succeeds.

    A file that was there lends its permissions. Without `overwrite`, one that has come there in
    the meantime is left, too.

    After any failure, Ctrl-C included, the temporary is gone and what stood at `path` is untouched.
    A symbolic link stays one: the file that it points to is replaced.

    Raises:
      UserError: the block or the replacing failed with an `OSError` (a full disk, no permission).
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        temporary.touch()
        mode = (target if target.exists() else temporary).stat().st_mode
        yield temporary
        temporary.chmod(mode)  # some libraries make their files private
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())  # a full disk may show only here
        if target.exists() and not overwrite:
            raise UserError(f"{path} has come into being meanwhile; --force overwrites it")
        os.replace(temporary, target)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({one_line(error)})") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a UTF-8 text file by `replaced_when_whole`."""
    with replaced_when_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def new_folder_when_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary folder beside `path`, which becomes it if the block succeeds.

    After any failure, Ctrl-C included, the temporary is gone.

    Raises:
      UserError: there is something at `path`, before or after the block, or the block or the
        renaming failed with an `OSError` (a full disk, no permission).
    """
    target = Path(path)
    check_absent(target)
    temporary = target.absolute().with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        temporary.mkdir()
        yield temporary
        check_absent(target)
        temporary.rename(target)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({one_line(error)})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_absent(path: Path) -> None:
    """Raises `UserError` if there is something at `path`, a dead link included."""
    if os.path.lexists(path):
        raise UserError(f"{path} exists; give another name, or delete it first")
