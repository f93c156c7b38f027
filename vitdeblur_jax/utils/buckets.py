"""Paths in buckets: gs:// of Google Cloud Storage and s3:// of S3.

etils' `epath.Path` acts on such paths as `pathlib.Path` acts on disk, through fsspec. Objects are
written whole, so the code that appends, renames or locks has a form of its own for buckets.
"""

import contextlib
import functools
import importlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from vitdeblur_jax.utils.errors import UserError, one_line

AnyPath = PurePath  # a `pathlib.Path` on disk, or an `epath.Path` in a bucket

_PACKAGES = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}  # and the extra of each
_LIBRARIES = (
    *("aiobotocore", "aiohttp", "botocore", "gcsfs"),
    *("google.api_core", "google.auth", "google.cloud"),
)


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Returns whether a path is in a bucket."""
    return scheme_of(path) in _PACKAGES


def scheme_of(path: str | os.PathLike[str]) -> str:
    """Returns "gs", "s3" or the other scheme of an address; "" for a path on disk."""
    scheme, mark, _ = os.fspath(path).partition("://")
    return scheme if mark else ""


def check_on_disk(path: str | os.PathLike[str], what: str) -> None:
    """Raises `UserError` if a path for results, which `what` names, is an address."""
    if scheme_of(path):
        raise UserError(f"{path}: {what} are saved on disk; copy the result to that address")


def as_path(path: str | os.PathLike[str]) -> AnyPath:
    """Returns a path on disk or in a bucket. `pathlib.Path` would drop a slash of gs://.

    Raises:
      UserError: The package for the bucket is not installed.
    """
    if not is_remote(path):
        return Path(path)
    _prepare(scheme_of(path))
    from etils import epath  # late: it would slow down the start of every command

    return epath.Path(os.fspath(path))


def reachable(path: str | os.PathLike[str]) -> AnyPath:
    """Returns a path on disk, or one in a bucket that exists and may be read.

    Raises:
      UserError: The address is of another kind, a package is missing, or the bucket does not exist,
        cannot be reached or may not be read.
    """
    scheme = scheme_of(path)
    if scheme and scheme not in _PACKAGES:
        raise UserError(
            f"{path}: {scheme}:// is not supported; buckets are gs://BUCKET/NAME or s3://BUCKET/NAME"
        )
    path = as_path(path)
    if not scheme:
        return path
    if len(path.parts) < 3:  # "/", the scheme, the bucket
        raise UserError(f"{path} names no bucket; write {scheme}://BUCKET/NAME")
    files, bucket = filesystem(path), path.parts[2]
    try:
        files.ls(str(path), detail=False)
    except FileNotFoundError:
        if _is_missing(files, bucket):
            raise UserError(f"{path}: there is no bucket {bucket!r}; create it first") from None
    except Exception as error:
        if not is_of_storage(error):
            raise
        raise UserError(f"{path}: the bucket cannot be used ({one_line(error)})") from error
    return path


def _is_missing(files, bucket):
    try:
        return not files.exists(bucket)
    except Exception as error:
        if not is_of_storage(error):
            raise
        return False  # an account may be allowed to use the objects only


def filesystem(path: str | os.PathLike[str]) -> Any:
    """Returns the fsspec file system of a path in a bucket.

    Raises:
      UserError: Its package is not installed.
    """
    _prepare(scheme_of(path))
    import fsspec

    return fsspec.filesystem(scheme_of(path))


@functools.cache
def _prepare(scheme: str) -> None:
    """Sets how fsspec and etils act on buckets; later than the first use it has no effect."""
    package, extra = _PACKAGES[scheme]
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f"{scheme}:// needs {package}: pip install 'vitdeblur_jax[{extra}]'"
        ) from error
    from fsspec.config import conf

    for protocol in {scheme, scheme.replace("gs", "gcs")}:
        # Other processes write into the same folders.
        conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)
    os.environ.setdefault("EPATH_USE_TF", "0")  # TensorFlow reads no s3://


def is_of_storage(error: BaseException) -> bool:
    """Returns whether a disk, a bucket or the way to it is at fault."""
    modules = [f"{kind.__module__}." for kind in type(error).__mro__]
    prefixes = tuple(f"{library}." for library in _LIBRARIES)
    return isinstance(error, OSError) or any(name.startswith(prefixes) for name in modules)


@contextlib.contextmanager
def as_user_error(path: str | os.PathLike[str], verb: str = "written") -> Iterator[None]:
    """Turns errors of a disk or a bucket into a `UserError`: PATH cannot be written."""
    try:
        yield
    except Exception as error:
        if not is_of_storage(error):
            raise
        raise UserError(f"{path}: cannot be {verb} ({one_line(error)})") from error


def lexists(path: str | os.PathLike[str]) -> bool:
    """Returns whether a path exists, on disk also as a broken link."""
    return as_path(path).exists() if is_remote(path) else os.path.lexists(path)


def exists(path: str | os.PathLike[str]) -> bool:
    """Returns whether a path exists."""
    return as_path(path).exists() if is_remote(path) else os.path.exists(path)


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Returns whether a path is a folder."""
    return as_path(path).is_dir() if is_remote(path) else os.path.isdir(path)


def absolute(path: AnyPath) -> AnyPath:
    """Returns a path on disk without links and relative parts; one in a bucket as it is."""
    return path if is_remote(path) else path.resolve()


def names_in(folder: AnyPath) -> list[str]:
    """Returns the names in a folder; none if it does not exist.

    Raises:
      UserError: It cannot be listed.
    """
    with as_user_error(folder, "listed"):
        try:
            return [path.name for path in folder.iterdir()]
        except FileNotFoundError:
            return []


def remove_tree(folder: AnyPath) -> None:
    """Removes a folder with all that it contains."""
    if is_remote(folder):
        folder.rmtree()
    else:
        shutil.rmtree(folder)


def read_start(path: str | os.PathLike[str], count: int) -> bytes:
    """Returns the first `count` bytes of a file, or all of a shorter one.

    Raises:
      OSError: The file cannot be read.
    """
    if is_remote(path):
        with filesystem(path).open(os.fspath(path), "rb", cache_type="none") as file:
            return file.read(min(count, file.size))
    with open(path, "rb") as file:
        return file.read(count)


def upload(local: Path, path: AnyPath, overwrite: bool = True) -> None:
    """Writes the contents of a local file to a bucket; they appear there at once or not at all.

    Raises:
      FileExistsError: There is such an object, and `overwrite` is false.
    """
    mode = "overwrite" if overwrite else "create"
    filesystem(path).pipe_file(str(path), local.read_bytes(), mode=mode)


@contextlib.contextmanager
def downloaded(path: AnyPath) -> Iterator[Path]:
    """Yields a local copy of a file in a bucket.

    Raises:
      UserError: It cannot be read. Errors of the block name the bucket, not the copy.
    """
    with tempfile.TemporaryDirectory() as scratch:
        local = Path(scratch) / path.name
        with as_user_error(path, "read"):
            filesystem(path).get_file(str(path), str(local))
        try:
            yield local
        except UserError as error:
            raise UserError(str(error).replace(str(local), str(path))) from error
