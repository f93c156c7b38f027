"""Fetches checkpoints from web addresses, `https://...#sha256=...`, into the user's cache.

A file is named by its SHA-256, so it is loaded from the cache whenever it is there, and a download
that was cut off is resumed. `http://` is only for servers on this machine.
"""

import contextlib
import http.client
import os
import re
import shlex
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from vitdeblur_jax.utils.caches import make_own_cache
from vitdeblur_jax.utils.errors import UserError, one_line
from vitdeblur_jax.utils.files import sha256_of
from vitdeblur_jax.utils.hosts import is_loopback
from vitdeblur_jax.utils.output import tell
from vitdeblur_jax.utils.progress import Progress
from vitdeblur_jax.utils.versions import own_version

try:
    import fcntl
except ImportError:  # Windows: processes that download the same file do not wait for each other
    fcntl = None

CACHE = "checkpoints"  # the folder's name in the user's cache
_DIGEST = re.compile("sha256=([0-9a-fA-F]{64})")
_UNSAFE = re.compile(r"[^\w.+-]", re.ASCII)
_TIMEOUT = 30  # seconds without a byte
_MOST_ATTEMPTS = 100  # to go on after the connection broke
_BLOCK = 2**20
_MEGABYTE = 10**6
_LONGEST_NAME = 100


class WebAddress(NamedTuple):
    """A file on the web.

    Attributes:
      url: Where it is, without the fragment. The query may hold a secret and is never printed.
      sha256: Its SHA-256, in lower case.
    """

    url: str
    sha256: str

    @property
    def shown(self) -> str:
        """The address without query and SHA-256, for messages."""
        return _shown(urlsplit(self.url))

    @property
    def pinned(self) -> str:
        """The address without query."""
        return f"{self.shown}#sha256={self.sha256}"


def _shown(parts):
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def parse_web_address(address: str) -> WebAddress:
    """Returns the parts of an address.

    Raises:
      UserError: The address is malformed, has no SHA-256, or is not encrypted.
    """
    try:
        parts = urlsplit(address)
        port = parts.port  # raises ValueError
    except ValueError as error:
        shown = address.partition("?")[0]
        raise UserError(f"{shown}: not an address ({one_line(error)})") from error
    shown = _shown(parts)
    if not parts.hostname or port == 0 or not address.isascii() or " " in address:
        raise UserError(f"{shown}: not an address")
    if parts.scheme != "https" and not _is_local(parts):
        raise UserError(f"{shown}: only https:// is safe; http:// is for this machine's servers")
    if parts.username or parts.password:
        raise UserError(f"{shown}: an address with a user name or password is not supported")
    digest = _DIGEST.fullmatch(parts.fragment)
    if digest is None:
        there = "ADDRESS" if parts.query else shlex.quote(shown)
        raise UserError(
            f"{shown}: add the file's SHA-256 to the address, #sha256=DIGEST; the publisher states "
            f"it, or curl -sSL {there} | sha256sum prints it"
        )
    return WebAddress(parts._replace(fragment="").geturl(), digest[1].lower())


def _is_local(parts: SplitResult) -> bool:
    return is_loopback(parts.hostname or "")


def web_file(address: WebAddress) -> Path:
    """Returns the path of a file in the cache, after downloading it if it is not there.

    Its SHA-256 is checked each time. A partial download is kept beside it, named `.part`.

    Raises:
      UserError: The file cannot be downloaded or has another SHA-256.
    """
    name = _UNSAFE.sub("_", unquote(urlsplit(address.url).path.rpartition("/")[2]))
    name = name[-_LONGEST_NAME:].lstrip(".") or "checkpoint"
    try:
        folder = make_own_cache(CACHE) / address.sha256
        folder.mkdir(exist_ok=True)
        path = folder / name
        with _locked(folder / ".lock"):
            if path.exists() and sha256_of(path) != address.sha256:
                tell(f"note: {path} is damaged and is downloaded again")
                path.unlink()
            if not path.exists():
                _download(address, path)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{address.shown}: cannot be kept ({one_line(error)})") from error
    return path


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lets one process at a time into the block; some network file systems have no locks."""
    with open(path, "a") as file:
        with contextlib.suppress(OSError):
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download(address, path):
    part = path.with_name(f"{path.name}.part")
    was_begun = part.exists()
    found = sha256_of(part) if was_begun else ""
    if found != address.sha256:  # otherwise only the rename is missing
        _fill(address, part)
        found = sha256_of(part)
    if found != address.sha256 and was_begun:  # the earlier bytes may be the wrong ones
        part.unlink()
        _fill(address, part)
        found = sha256_of(part)
    if found != address.sha256:
        part.unlink()
        raise UserError(
            f"{address.shown}: the server sends another file: its SHA-256 is {found}, not "
            f"{address.sha256}"
        )
    os.replace(part, path)


def _fill(address, part):
    """Downloads to `part`; a broken connection is resumed as long as new bytes arrive."""
    for _ in range(_MOST_ATTEMPTS):
        before = _size(part)
        try:
            return _receive(address, part)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not before:
                reason = f"the server answers {error.code} {' '.join(error.reason.split())}"
                raise UserError(f"{address.shown}: {reason}") from error
            part.unlink()
        except UserError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:  # of odd addresses
            last = error
            is_begun_again = before and not part.exists()
            if _size(part) <= before and not is_begun_again:
                break
    reason = one_line(_cause(last))
    size = _size(part)
    kept = f"; {size / 1e6:.1f} MB are kept, run this again to resume" if size else ""
    raise UserError(f"{address.shown}: cannot be downloaded ({reason}){kept}") from last


def _cause(error: Exception) -> BaseException:
    """Returns the error that urllib has wrapped."""
    reason = getattr(error, "reason", None)
    return reason if isinstance(reason, BaseException) else error


def _size(part):
    return part.stat().st_size if part.exists() else 0


def _receive(address, part):
    begun = _size(part)
    headers = {"User-Agent": f"vitdeblur_jax/{own_version()}", "Accept-Encoding": "identity"}
    if begun:
        headers["Range"] = f"bytes={begun}-"
    request = urllib.request.Request(address.url, headers=headers)
    with _opener(address).open(request, timeout=_TIMEOUT) as response:
        if response.headers.get_content_type() == "text/html":
            raise UserError(
                f"{address.shown}: this is a web page; give the address of the file itself"
            )
        if response.status != HTTPStatus.PARTIAL_CONTENT:
            begun = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {begun}-"):
            part.unlink()
            raise http.client.HTTPException("the server sends other bytes than asked for")
        total = _total(response.headers, begun)
        with open(part, "r+b" if begun else "wb") as file, _progress(total, begun) as advance:
            file.seek(begun)
            _check_space(part.parent, total - begun)
            while block := response.read(_BLOCK):
                file.write(block)
                advance(len(block))
    if total and _size(part) < total:
        raise ConnectionError(f"the connection ended after {_size(part)} of {total} bytes")


def _opener(address):
    direct = [urllib.request.ProxyHandler({})] if _is_local(urlsplit(address.url)) else []
    return urllib.request.build_opener(_SafeRedirects, *direct)


def _total(headers: Message, begun: int) -> int:
    """Returns the size of the whole file; 0 if the server does not tell it."""
    length = headers.get("Content-Length", "")
    return begun + int(length) if re.fullmatch("[0-9]{1,20}", length) else 0


def _check_space(folder, needed):
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: the download needs {needed / 1e6:.1f} MB, {free / 1e6:.1f} MB are free"
        )


@contextlib.contextmanager
def _progress(total, begun):
    """Yields a function that takes numbers of bytes, and shows whole megabytes."""
    if not total:
        yield lambda count: None
        return
    done = begun

    def advance(count):
        nonlocal done
        bar.advance((done + count) // _MEGABYTE - done // _MEGABYTE)
        done += count

    with Progress(total // _MEGABYTE, "MB", done=begun // _MEGABYTE) as bar:
        yield advance


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to encrypted addresses, and from this machine to this machine."""

    def http_error_302(self, req, fp, code, msg, headers):
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except ValueError:  # an address that is refused or malformed
            fp.close()
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        is_local = _is_local(old) and _is_local(new)
        if not is_local and (new.scheme != "https" or _is_local(new)):
            raise UserError(
                f"{_shown(old)}: the server redirects to {_shown(new)}, which is not safe"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)
