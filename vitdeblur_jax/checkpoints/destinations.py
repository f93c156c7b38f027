"""Where a checkpoint may be written, and what may be deleted to make room for it."""

import os
import re
from pathlib import Path

from vitdeblur_jax.utils.errors import UserError, one_line
from vitdeblur_jax.utils.json_files import read_json

_ENDINGS = (".safetensors", ".pth", ".pt", ".tar")
# What Orbax writes of the items "variables" and "config"; folders end in a slash.
_OF_A_CHECKPOINT = re.compile(
    r"(_CHECKPOINT_METADATA|_sharding|commit_success.txt"
    r"|config/(metadata|commit_success.txt)?"
    r"|variables/(_METADATA|_sharding|commit_success.txt|array_metadatas/(process_\d+)?"
    r"|(ocdbt.process_\d+/)?(manifest.ocdbt|d/([0-9a-f]{32})?)?)?)"
)


def check_destination(destination: str | os.PathLike[str]) -> Path:
    """Returns the path if a checkpoint can have that name, in a folder that exists.

    Raises:
      UserError: another ending, a file where a folder is asked for or the reverse, no such folder.
    """
    text, path = os.fspath(destination), Path(destination)
    if path.suffix not in ("", *_ENDINGS):
        raise UserError(
            f"{path}: a checkpoint ends in .safetensors, .pth, .pt or .tar, or is a folder without "
            "an ending"
        )
    if path.suffix and text.endswith(os.sep):
        raise UserError(f"{text} names a folder with the ending of a file; drop one of the two")
    if not os.path.isdir(path.parent):
        raise UserError(f"{path}: there is no folder {path.parent}")
    if os.path.exists(path) and os.path.isdir(path) != (path.suffix == ""):
        kind = "folder" if os.path.isdir(path) else "file"
        raise UserError(f"{path} is a {kind} already, and the ending asks for the other")
    return path


def check_replaceable(path: str | os.PathLike[str]) -> None:
    """Raises `UserError` unless deleting what is at `path` loses no more than one checkpoint.

    That is: nothing is there, or an empty folder, or a folder in which every file is of a
    checkpoint that this package wrote. The working directory and what holds it are never deleted,
    nor a step of a training run, nor what a symbolic link points to.
    """
    if not os.path.lexists(path):
        return
    if os.path.islink(path):
        raise UserError(f"{path} is a symbolic link; name the folder that it points to")
    if _is_or_holds(path, _working_directory()):
        raise UserError(f"{path} is the working directory or holds it; choose another name")
    foreign = _foreign_entry(path)
    if foreign is not None:
        raise UserError(
            f"{path} holds {foreign} and so is not only a checkpoint of this package; choose "
            "another name, or delete the folder yourself"
        )


def _working_directory():
    try:
        return os.path.realpath(os.getcwd())
    except OSError:  # it has been deleted
        return ""


def _is_or_holds(path, inner):
    outer = os.path.realpath(path)
    return inner == outer or inner.startswith(outer.rstrip(os.sep) + os.sep)


def _foreign_entry(path):
    """Returns the first thing in a folder that is not of a checkpoint, or None."""

    def cannot_be_listed(error):
        raise UserError(f"{path}: cannot be replaced ({one_line(error)})") from error

    is_empty = True
    for parent, folders, files in os.walk(path, onerror=cannot_be_listed):
        for name in sorted((*folders, *files)):
            is_empty = False
            entry = os.path.join(parent, name)
            relative = os.path.relpath(entry, path)
            is_folder = name in folders and not os.path.islink(entry)
            if not _OF_A_CHECKPOINT.fullmatch(f"{relative}/" if is_folder else relative):
                return relative
    is_ours = is_empty or _is_config(Path(path) / "config" / "metadata")
    return None if is_ours else "no configuration"


def _is_config(path):
    try:
        return "network" in read_json(path)
    except UserError:
        return False
