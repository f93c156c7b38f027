"""Images in a folder."""

import os
from collections.abc import Iterator
from pathlib import Path

from PIL import features

from vitdeblur_jax.data.image_io.formats import FORMATS
from vitdeblur_jax.utils.errors import UserError, one_line
from vitdeblur_jax.utils.natural_order import natural_key

_ONLY_READ = (".gif", ".ppm", ".pgm", ".pbm", ".pnm")
READABLE_SUFFIXES = (*FORMATS, *_ONLY_READ, *[".avif"] * features.check("avif"))
ADDED_FOLDERS = ("__MACOSX", "@eaDir")  # by archives and network disks
_MOST_SUFFIXES_NAMED = 5


def list_images(folder: str | os.PathLike[str], *, recursive: bool = False) -> list[Path]:
    """List the images in a folder, by `READABLE_SUFFIXES`, in natural order, none hidden.

    Args:
        folder: The folder.
        recursive: Whether to list those of the folders in it too, after its own.

    Raises:
        UserError: A folder is missing or unreadable, or there is no image.
    """
    paths = images_in(folder, recursive=recursive)
    if not paths:
        looked_for = f"looked for {', '.join(READABLE_SUFFIXES)}"
        raise UserError(f"no images in {folder}: {looked_for}{_in_brackets(left_out(folder))}")
    return paths


def images_in(folder: str | os.PathLike[str], *, recursive: bool = False) -> list[Path]:
    """List the images in a folder as `list_images` does; there may be none.

    Raises:
        UserError: A folder is missing or unreadable.
    """
    walked = _walk(Path(folder), recursive)
    return [path for files, _ in walked for path in files if _is_image(path)]


def left_out(folder: str | os.PathLike[str], *, recursive: bool = False) -> str:
    """Return a line on what `list_images` does not list, "" where that is nothing.

    For example "left out: 5 files of formats that are not read (.heic, .dng), 1 folder". Hidden
    files and folders are not counted.
    """
    others, count = [], 0
    for files, folders in _walk(Path(folder), recursive):
        others += [path for path in files if not _is_image(path)]
        count += 0 if recursive else len(folders)
    parts = []
    if others:
        suffixes = list(dict.fromkeys(path.suffix.lower() or "no ending" for path in others))
        more = ", ..." if len(suffixes) > _MOST_SUFFIXES_NAMED else ""
        named = ", ".join(suffixes[:_MOST_SUFFIXES_NAMED]) + more
        parts.append(f"{_counted(len(others), 'file')} of formats that are not read ({named})")
    if count:
        parts.append(_counted(count, "folder"))
    return f"left out: {', '.join(parts)}" if parts else ""


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, in natural order, none hidden and none of `ADDED_FOLDERS`."""
    return next(_walk(folder, recursive=False))[1]


def _walk(folder: Path, recursive: bool) -> Iterator[tuple[list[Path], list[Path]]]:
    """Yield the files and the folders of a folder, and then those of each folder in it."""
    try:
        entries = sorted(folder.iterdir(), key=lambda path: natural_key(path.name))
        entries = [path for path in entries if path.name[0] != "."]
        files = [path for path in entries if path.is_file() or _is_broken_link(path)]
        folders = [path for path in entries if path.is_dir() and path.name not in ADDED_FOLDERS]
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed as a folder ({one_line(error)})") from error
    yield files, folders
    for inner in folders if recursive else ():
        if not inner.is_symlink():  # it may lead back
            yield from _walk(inner, recursive)


def _is_broken_link(path: Path) -> bool:
    """Tell what is listed like a file, so that reading it tells that it is missing."""
    return path.is_symlink() and not path.exists()


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in READABLE_SUFFIXES


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count > 1)}"


def _in_brackets(text: str) -> str:
    return f" ({text})" if text else ""
