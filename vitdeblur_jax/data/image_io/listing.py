"""Lists the images in a folder."""

import os
from collections.abc import Iterator
from pathlib import Path

from vitdeblur_jax.data.image_io.formats import FORMATS, RAW_SUFFIXES, is_available, needs
from vitdeblur_jax.utils.errors import UserError, one_line
from vitdeblur_jax.utils.natural_order import natural_key

_ONLY_READ = (".gif", ".ppm", ".pgm", ".pbm", ".pnm")
_CAMERA_FORMATS = {**FORMATS, **dict.fromkeys(RAW_SUFFIXES, "RAW")}
READABLE_SUFFIXES = (
    *(suffix for suffix, kind in _CAMERA_FORMATS.items() if is_available(kind)),
    *_ONLY_READ,
)
ADDED_FOLDERS = ("__MACOSX", "@eaDir")  # by archives and network disks
_MOST_SUFFIXES_NAMED = 5


def list_images(folder: str | os.PathLike[str], *, recursive: bool = False) -> list[Path]:
    """Lists the images in a folder in natural order, without hidden files.

    Files with one of `READABLE_SUFFIXES` are images.

    Args:
        folder: The folder.
        recursive: Also list the images in subfolders, after those of the folder itself.

    Raises:
        UserError: A folder is missing or unreadable, or there are no images.
    """
    paths = images_in(folder, recursive=recursive)
    if not paths:
        looked_for = f"looked for {', '.join(READABLE_SUFFIXES)}"
        raise UserError(f"no images in {folder}: {looked_for}{_in_brackets(left_out(folder))}")
    return paths


def images_in(folder: str | os.PathLike[str], *, recursive: bool = False) -> list[Path]:
    """Lists the images in a folder like `list_images`; the result may be empty.

    Raises:
        UserError: A folder is missing or unreadable.
    """
    walked = _walk(Path(folder), recursive)
    return [path for files, _ in walked for path in files if _is_image(path)]


def left_out(folder: str | os.PathLike[str], *, recursive: bool = False) -> str:
    """Returns a line about the files and folders that `list_images` skips; "" if there are none.

    For example "left out: 5 files in unsupported formats (.psd, .exr), 1 folder". If a package for
    one of the formats is missing, the line names it. Hidden files and folders are not counted.
    """
    others, count = [], 0
    for files, folders in _walk(Path(folder), recursive):
        others += [path for path in files if not _is_image(path)]
        count += 0 if recursive else len(folders)
    parts = []
    if others:
        suffixes = list(dict.fromkeys(path.suffix.lower() or "no extension" for path in others))
        more = ", ..." if len(suffixes) > _MOST_SUFFIXES_NAMED else ""
        named = ", ".join(suffixes[:_MOST_SUFFIXES_NAMED]) + more
        parts.append(f"{_counted(len(others), 'file')} in unsupported formats ({named})")
    if count:
        parts.append(_counted(count, "folder"))
    missing = dict.fromkeys(_CAMERA_FORMATS.get(path.suffix.lower()) for path in others)
    advice = "".join(f"; {needs(kind)}" for kind in missing if kind)
    return f"left out: {', '.join(parts)}{advice}" if parts else ""


def subfolders(folder: Path) -> list[Path]:
    """Returns the subfolders in natural order, without hidden ones and `ADDED_FOLDERS`."""
    return next(_walk(folder, recursive=False))[1]


def _walk(folder: Path, recursive: bool) -> Iterator[tuple[list[Path], list[Path]]]:
    """Yields the files and the subfolders of a folder, then those of each subfolder."""
    try:
        entries = sorted(folder.iterdir(), key=lambda path: natural_key(path.name))
        entries = [path for path in entries if path.name[0] != "."]
        files = [path for path in entries if path.is_file() or _is_broken_link(path)]
        folders = [path for path in entries if path.is_dir() and path.name not in ADDED_FOLDERS]
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed as a folder ({one_line(error)})") from error
    yield files, folders
    for inner in folders if recursive else ():
        if not inner.is_symlink():  # avoids cycles
            yield from _walk(inner, recursive)


def _is_broken_link(path: Path) -> bool:
    """Returns whether a link has no target. It is listed, so that reading it is an error."""
    return path.is_symlink() and not path.exists()


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in READABLE_SUFFIXES


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count > 1)}"


def _in_brackets(text: str) -> str:
    return f" ({text})" if text else ""
