"""Checks where a checkpoint may be written, and what it may replace."""

import os
import re
from pathlib import Path

from vitdeblur_jax.utils.buckets import check_on_disk
from vitdeblur_jax.utils.errors import UserError, one_line
from vitdeblur_jax.utils.json_files import read_json

_ENDINGS = (".safetensors", ".pth", ".pt", ".tar")
# The files that Orbax writes for the items "variables" and "config"; folders end in a slash.
_OF_A_CHECKPOINT = re.compile(
    r"(_CHECKPOINT_METADATA|_sharding|commit_success.txt"
    r"|config/(metadata|commit_success.txt)?"
    r"|variables/(_METADATA|_sharding|commit_success.txt|array_metadatas/(process_\d+)?"
    r"|(ocdbt.process_\d+/)?(manifest.ocdbt|d/([0-9a-f]{32})?)?)?)"
)


def check_destination(destination: str | os.PathLike[str]) -> Path:
    """Returns the path if a checkpoint can have this name.

    Raises:
      UserError: The ending is not supported, a file exists where a folder is to be written or the
        reverse, or the parent folder does not exist.
    """
    text, path = os.fspath(destination), Path(destination)
    check_on_disk(text, "checkpoints")
    if path.suffix not in ("", *_ENDINGS):
        raise UserError(
            f"{path}: a checkpoint ends in .safetensors, .pth, .pt or .tar, or is a folder without "
            "an ending"
        )
    if path.suffix and text.endswith(os.sep):
        raise UserError(f"{text}: a folder has no ending; drop the slash or the ending")
    if not os.path.isdir(path.parent):
        raise UserError(f"{path}: there is no folder {path.parent}")
    if os.path.exists(path) and os.path.isdir(path) != (path.suffix == ""):
        kind = "folder" if os.path.isdir(path) else "file"
        raise UserError(f"{path} exists and is a {kind}; choose another name")
    return path


def check_replaceable(path: str | os.PathLike[str]) -> None:
    """Raises `UserError` if deleting `path` could lose more than one checkpoint.

    `path` may be absent, an empty folder, or a folder in which every file belongs to a checkpoint
    of this package. The working directory, its parents, the steps of a training run and the targets
    of symbolic links are never deleted.
    """
    if not os.path.lexists(path):
        return
    if os.path.islink(path):
        raise UserError(f"{path} is a symbolic link; give the folder that it points to")
    if _is_or_holds(path, _working_directory()):
        raise UserError(f"{path} is the working directory or holds it; choose another name")
    reason = _not_only_a_checkpoint(path)
    if reason is not None:
        raise UserError(f"{path} {reason}; choose another name, or delete the folder yourself")


def _working_directory():
    try:
        return os.path.realpath(os.getcwd())
    except OSError:  # the working directory was deleted
        return ""


def _is_or_holds(path, inner):
    outer = os.path.realpath(path)
    return inner == outer or inner.startswith(outer.rstrip(os.sep) + os.sep)


def _not_only_a_checkpoint(path):
    """Returns why a folder is neither empty nor one checkpoint of this package, or None."""

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
                return f"holds {relative}, which is not part of a checkpoint"
    is_ours = is_empty or _is_config(Path(path) / "config" / "metadata")
    return None if is_ours else "holds no config of a network"


def _is_config(path):
    try:
        return "network" in read_json(path)
    except UserError:
        return False
