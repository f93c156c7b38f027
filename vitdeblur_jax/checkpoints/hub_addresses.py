"""Addresses on the Hugging Face Hub: `hf://OWNER/NAME[@REVISION][/FILE]`."""

import re
from typing import NamedTuple
from urllib.parse import quote, unquote

from vitdeblur_jax.utils.errors import UserError

SCHEME = "hf://"
FORM = f"{SCHEME}OWNER/NAME[@REVISION][/FILE]"
DEFAULT_REVISION = "main"
_PARTS = re.compile(
    r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>refs/[\w.-]+/[\w.-]+|[^/@]+))?(/(?P<file>[^@]+))?",
    re.ASCII,
)
_OTHER_KINDS = ("datasets/", "spaces/", "buckets/")


class HubAddress(NamedTuple):
    """A checkpoint on the hub.

    Attributes:
      repo: The repository, `OWNER/NAME`.
      revision: A branch, tag or commit.
      file: The file's path in the repository; empty to choose the only one that can be loaded.
    """

    repo: str
    revision: str
    file: str

    def __str__(self) -> str:
        """The address; `parse_hub_address` takes it."""
        revision = quote(self.revision, safe="")
        return f"{SCHEME}{self.repo}@{revision}" + (f"/{self.file}" if self.file else "")


def parse_hub_address(address: str) -> HubAddress:
    """Returns the parts of an address. A slash in a revision is written `%2F`.

    Raises:
      UserError: The address is malformed.
    """
    found = _PARTS.fullmatch(address.removeprefix(SCHEME))
    if found is None or found["repo"].startswith(_OTHER_KINDS):
        raise UserError(f"{address}: an address on the hub is {FORM}, of a model repository")
    file = found["file"] or ""
    if any(part in ("", ".", "..") for part in file.split("/")[: None if file else 0]):
        raise UserError(f"{address}: {file!r} is not a path of a file in a repository")
    return HubAddress(found["repo"], unquote(found["revision"] or DEFAULT_REVISION), file)
