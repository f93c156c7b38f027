"""Photographs in a folder."""

import os
from pathlib import Path

from vitdeblur_jax.data.image_io.formats import FORMATS, IMAGE_SUFFIXES
from vitdeblur_jax.errors import UserError, one_line
from vitdeblur_jax.natural_order import natural_key


def list_photographs(folder: str | os.PathLike[str]) -> list[Path]:
    """List the photographs right in a folder, by `IMAGE_SUFFIXES`, in natural order, none hidden.

    Raises:
        UserError: The folder is missing, unreadable or holds no photograph.
    """
    try:
        paths = [path for path in Path(folder).iterdir() if not path.name.startswith(".")]
        paths = [path for path in paths if path.suffix.lower() in FORMATS and path.is_file()]
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed as a folder ({one_line(error)})") from error
    if not paths:
        raise UserError(f"no images in {folder}: looked for {', '.join(IMAGE_SUFFIXES)}")
    return sorted(paths, key=lambda path: natural_key(path.name))
