"""Checkpoints named by an address: `hf://OWNER/NAME[@REVISION][/FILE]` and `https://...#sha256=...`.

An address is resolved to a file in a cache. What is loaded is printed in one line, as an address
that names exactly these bytes.
"""

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from vitdeblur_jax.checkpoints.hub_addresses import SCHEME, parse_hub_address
from vitdeblur_jax.distributed.processes import is_first
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.output import tell

_ADDRESS = re.compile(r"(hf|https?):/")
_QUERY = re.compile(r"\?[^#]*")
_WITHOUT_PICKLE = (".safetensors", ".hdf5", ".h5")
_PERHAPS_PICKLE = (".npz", "")


class Located(NamedTuple):
    """A checkpoint on this machine.

    Attributes:
      path: The path or name to load.
      pinned: The address that names exactly these bytes; None if no address was given.
    """

    path: str | os.PathLike[str]
    pinned: str | None = None


def is_address(source: str | os.PathLike[str]) -> bool:
    """Returns whether a checkpoint is named by an address rather than a path."""
    return _ADDRESS.match(str(source)) is not None


def without_queries(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config to keep or send: web addresses lose their query, which may hold a secret."""
    kept = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            value = without_queries(value)
        elif isinstance(value, str) and is_address(value):
            value = _without_query(value)
        kept[key] = value
    return kept


def _without_query(address: str) -> str:
    return _QUERY.sub("", address, count=1)


def located(source: str | os.PathLike[str]) -> Located:
    """Returns a checkpoint's path. An address is downloaded first, unless it is in the cache.

    Prints the pinned address, and a note if the file holds a pickle.

    Args:
      source: A path or name, which is returned as it is, or an address.

    Raises:
      UserError: The address is malformed, or its file cannot be fetched or is not the one that was
        asked for.
    """
    if not is_address(source):
        return Located(source)
    address = str(source)
    if "://" not in address:  # `Path` has made one slash of two
        raise UserError(
            f"{_without_query(address)}: an address has two slashes after the colon, and is a "
            "string"
        )
    # Imported late: most checkpoints are files, and these modules would slow down each start.
    if address.startswith(SCHEME):
        from vitdeblur_jax.checkpoints.hub_files import hub_file

        path, pinned = hub_file(parse_hub_address(address))
    else:
        from vitdeblur_jax.checkpoints.web_files import parse_web_address, web_file

        found = parse_web_address(address)
        path, pinned = web_file(found), found.pinned
    if is_first():
        tell(f"checkpoint: {pinned}")
        if path.suffix not in _WITHOUT_PICKLE:
            kind = "may hold a pickle" if path.suffix in _PERHAPS_PICKLE else "is a pickle"
            tell(f"note: {path.name} {kind}; it is read as data, and no code in it is executed")
    return Located(path, pinned)
