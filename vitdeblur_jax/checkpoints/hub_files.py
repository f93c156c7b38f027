"""Fetches checkpoints from the Hugging Face Hub into the cache of `huggingface_hub`."""

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from pathlib import Path
from types import ModuleType

from vitdeblur_jax.checkpoints.hub_addresses import HubAddress
from vitdeblur_jax.utils.errors import UserError, nearest, one_line
from vitdeblur_jax.utils.files import sha256_of
from vitdeblur_jax.utils.output import tell
from vitdeblur_jax.utils.shapes import few_of

_COMMIT = re.compile("[0-9a-f]{40}")
_SHA256 = re.compile("[0-9a-f]{64}")
_BEST = ".safetensors"
_LOADABLE = (
    *(_BEST, ".pth", ".pt", ".tar", ".ckpt", ".pytorch", ".bin"),
    *(".hdf5", ".h5", ".npz"),
)
_TIMEOUT = 10  # seconds to wait for the description of a repository


def hub_library(address: HubAddress) -> ModuleType:
    """Returns the module `huggingface_hub`.

    Raises:
      UserError: It is not installed.
    """
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        message = "hf:// needs huggingface_hub: pip install 'vitdeblur_jax[hub]'"
        raise UserError(f"{address}: {message}") from error
    return huggingface_hub


@contextlib.contextmanager
def quiet_hub() -> Iterator[None]:
    """Suppresses the library's warnings about connections that it tries again."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def hub_file(address: HubAddress) -> tuple[Path, str]:
    """Returns the path of a checkpoint in the cache, and its address with the commit.

    The hub is not asked if the address names a commit and a file that is in the cache. If it cannot
    be reached, the commit in the cache is used, and a note says so.

    Raises:
      UserError: There is no such repository, revision or file, the file cannot be chosen or
        fetched, or its content is not what the hub announced.
    """
    hub = hub_library(address)
    if _is_pinned_and_cached(hub, address):
        return _checked(_fetched(hub, address, offline=True), address)
    names, offline = _listed(hub, address)
    address = address._replace(file=_chosen(names, address))
    return _checked(_fetched(hub, address, offline), address)


def _listed(hub, address) -> tuple[list[str], bool]:
    """Returns the names of the files, and whether they are those in the cache."""
    try:
        with quiet_hub():
            info = hub.HfApi().model_info(address.repo, revision=address.revision, timeout=_TIMEOUT)
        return [sibling.rfilename for sibling in info.siblings or ()], False
    except Exception as error:  # a server can make the library raise almost any exception
        names = [] if is_refusal(error) else _cached(hub, address)
        if not names or (address.file and address.file not in names):
            raise UserError(f"{address}: {hub_reason(error)}") from error
        tell(f"note: {address}: {hub_reason(error)}; the commit in the cache is used")
        return names, True


def _is_pinned_and_cached(hub, address) -> bool:
    if not address.file or not _COMMIT.fullmatch(address.revision):
        return False
    path = hub.try_to_load_from_cache(address.repo, address.file, revision=address.revision)
    return isinstance(path, str)


def _fetched(hub, address, offline) -> Path:
    try:
        with quiet_hub():
            path = hub.hf_hub_download(
                address.repo, address.file, revision=address.revision, local_files_only=offline
            )
    except Exception as error:
        raise UserError(f"{address}: {hub_reason(error)}") from error
    return Path(path)


def _cached(hub, address) -> list[str]:
    """Returns the names of the files in the cache, of the commit that a revision had last."""
    try:
        repositories = hub.scan_cache_dir(hub.constants.HF_HUB_CACHE).repos
    except Exception:  # there is no cache
        return []
    return [
        file.file_path.relative_to(one.snapshot_path).as_posix()
        for repository in repositories
        if (repository.repo_type, repository.repo_id) == ("model", address.repo)
        for one in repository.revisions
        if address.revision in (one.commit_hash, *one.refs)
        for file in one.files
    ]


def _chosen(names: Iterable[str], address) -> str:
    """Returns the file to load: the one given, else the only one, safetensors first."""
    names = sorted(names)
    if address.file:
        if address.file not in names:
            near = nearest(address.file, names)
            raise UserError(f"{address}: the repository has no file {address.file!r}{near}")
        return address.file
    loadable = [name for name in names if name.endswith(_LOADABLE)]
    best = [name for name in loadable if name.endswith(_BEST)] or loadable
    if len(best) == 1:
        return best[0]
    if not best:
        raise UserError(
            f"{address}: the repository holds no checkpoint ({', '.join(_LOADABLE)}); it holds "
            f"{few_of(names) if names else 'nothing'}"
        )
    raise UserError(
        f"{address}: the repository holds several checkpoints; add one to the address: "
        + ", ".join(f"/{name}" for name in best)
    )


def _checked(path: Path, address) -> tuple[Path, str]:
    """Returns a file and its pinned address, once its content has the hash that names it.

    In the cache, a file is a link to a blob that is named after the SHA-256 of its content, or,
    for small files, git's hash of it. Where there are no links, there is nothing to compare with.
    """
    blob = path.parent / os.readlink(path) if path.is_symlink() else path
    content_hash = _hash_like(blob)
    if content_hash not in (None, blob.name):
        blob.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise UserError(
            f"{address}: damaged on the way (its hash is {content_hash}, and the hub announced "
            f"{blob.name}); it was deleted, run this again"
        )
    commit = next(part for part in reversed(path.parts) if _COMMIT.fullmatch(part))
    if _COMMIT.fullmatch(address.revision) and commit != address.revision:
        raise UserError(f"{address}: the hub sends the commit {commit} in place of this one")
    return path, str(address._replace(revision=commit))


def _hash_like(blob: Path) -> str | None:
    if _SHA256.fullmatch(blob.name):
        return sha256_of(blob)
    if _COMMIT.fullmatch(blob.name):
        return _git_hash(blob.read_bytes())
    return None


def _git_hash(content: bytes) -> str:
    header = b"blob %d\0" % len(content)
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()


def is_refusal(error: Exception) -> bool:
    """Returns whether the hub has answered that something does not exist or may not be had."""
    status = getattr(getattr(error, "response", None), "status_code", 0)
    return 400 <= status < 500 and status not in (408, 429)


def hub_reason(error: Exception) -> str:
    """Returns what went wrong at the hub and what to do, as one line."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "the repository is gated; accept its terms on its page, then log in: hf auth login"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository, or it is private; then log in: hf auth login"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such revision"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return "the hub cannot be reached, and the file is not in the cache"
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # of an upload in a thread
    response = getattr(error, "response", None)
    if response is None:
        is_lost = isinstance(error, errors.HTTPError | ConnectionError)
        what = "cannot be reached" if is_lost else "does not answer as expected"
        return f"the hub {what} ({one_line(error)})"
    said = " ".join((getattr(error, "server_message", None) or "").split())[:200]
    advice = "; log in with a token for this: hf auth login" if _needs_token(response) else ""
    phrase = f"{response.status_code} {response.reason_phrase}"
    return f"the hub answers {phrase}{f' ({said})' if said else ''}{advice}"


def _needs_token(response) -> bool:
    return response.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
