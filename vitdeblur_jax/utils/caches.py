"""The folders in the user's cache: compiled programs, checkpoints, weights of metrics."""

import os
import sys
from pathlib import Path


def user_caches() -> Path:
    """Returns the folder of the user's caches on this platform.

    Raises:
      RuntimeError: The user's home folder is unknown.
    """
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    given = os.environ.get("XDG_CACHE_HOME", "")
    return Path(given) if os.path.isabs(given) else Path.home() / ".cache"


def own_cache(name: str) -> Path:
    """Returns a folder of this package in the user's cache, which may not exist.

    Args:
      name: Name of the folder, such as "metrics".

    Raises:
      RuntimeError: The user's home folder is unknown.
    """
    return user_caches() / "vitdeblur_jax" / name


def make_own_cache(name: str) -> Path:
    """Creates the folder that `own_cache` returns, for this user alone.

    Raises:
      RuntimeError: There is no home folder for it.
      OSError: It cannot be created.
    """
    folder = own_cache(name)
    home = os.path.expanduser("~")
    if folder.is_relative_to(home) and not os.path.isdir(home):
        raise RuntimeError(f"there is no home folder {home}")  # root would create it
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
