"""Pushes a checkpoint to the Hugging Face Hub, with its config and a model card."""

import json
import os
import re
import tempfile
from pathlib import Path
from types import ModuleType

import flax.linen as nn

from vitdeblur_jax.checkpoints.hub_addresses import (
    DEFAULT_REVISION,
    SCHEME,
    HubAddress,
    parse_hub_address,
)
from vitdeblur_jax.checkpoints.hub_files import hub_library, hub_reason, quiet_hub
from vitdeblur_jax.checkpoints.load_save import load_pretrained, save_pretrained
from vitdeblur_jax.checkpoints.model_card import model_card, read_validation
from vitdeblur_jax.checkpoints.pretrained import Pretrained, saved_config
from vitdeblur_jax.utils.buckets import as_path
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.output import tell

_WEIGHTS, _CONFIG, _CARD = "model.safetensors", "config.json", "README.md"
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def push(
    source: str | os.PathLike[str],
    destination: str,
    license_name: str | None,
    *,
    overwrite: bool = False,
    half: bool = False,
    network: nn.Module | None = None,
) -> tuple[str, tuple[str, ...]]:
    """Pushes a checkpoint as one commit: weights (`.safetensors`), `config.json` and a model card.

    A repository that does not exist is created, as a private one.

    Args:
      source: As `load_pretrained` takes it. The card of a training run has its validation results.
      destination: `hf://OWNER/NAME[@BRANCH][/FILE]`; FILE is `model.safetensors` by default.
      license_name: The licence of the weights, as the hub names it, such as "apache-2.0".
      overwrite: Replace files of these names. The repository's history keeps the old ones.
      half: Write float16; see `save_pretrained`.
      network: The network, for a checkpoint that does not describe it; see `load_pretrained`.

    Returns:
      The address with the commit, and the names of the entries that the network never uses.

    Raises:
      UserError: An argument is invalid, the checkpoint cannot be loaded, a file exists, or the hub
        refuses.
    """
    address = _checked_destination(destination, license_name)
    hub = hub_library(address)
    head = _head(hub, address, overwrite)
    pretrained = load_pretrained(source, network)
    validation = read_validation(as_path(pretrained.source))
    card = model_card(pretrained, address, license_name, validation)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / _WEIGHTS
        save_pretrained(pretrained, weights, half=half)
        commit = _commit(hub, address, head, _files(address, pretrained, weights, card))
    return str(address._replace(revision=commit)), tuple(pretrained.unused)


def _checked_destination(destination, license_name) -> HubAddress:
    if not destination.startswith(SCHEME):
        raise UserError(f"{destination}: a checkpoint is pushed to {SCHEME}OWNER/NAME only")
    address = parse_hub_address(destination)
    if not address.file:
        address = address._replace(file=_WEIGHTS)
    if not address.file.endswith(".safetensors"):
        raise UserError(f"{destination}: a pushed checkpoint ends in .safetensors")
    if license_name is None:
        raise UserError(
            f"{destination}: --license is missing; name the weights' licence as the hub does, such "
            "as --license apache-2.0 or cc-by-nc-4.0"
        )
    if not _LICENSE.fullmatch(license_name):
        raise UserError(
            f"--license {license_name!r}: the hub names licences in small letters, such as "
            "apache-2.0, cc-by-nc-4.0 or other"
        )
    return address


def _head(hub: ModuleType, address: HubAddress, overwrite: bool) -> str | None:
    """Returns the last commit of the branch, or None if there is no such repository."""
    try:
        with quiet_hub():
            info = hub.HfApi().model_info(address.repo, revision=address.revision)
    except hub.errors.RepositoryNotFoundError as error:
        if isinstance(error, hub.errors.GatedRepoError) or address.revision != DEFAULT_REVISION:
            raise UserError(f"{address}: {hub_reason(error)}") from error
        return None
    except Exception as error:  # a server can make the library raise almost any exception
        raise UserError(f"{address}: {hub_reason(error)}") from error
    names = {sibling.rfilename for sibling in info.siblings or ()}
    existing = [name for name in (address.file, _CONFIG, _CARD) if name in names]
    if existing and not overwrite:
        raise UserError(
            f"{address}: the repository has {', '.join(existing)}; --force replaces them, and its "
            "history keeps the old ones"
        )
    return info.sha


def _files(address: HubAddress, pretrained: Pretrained, weights: Path, card: str) -> dict:
    config = json.dumps(saved_config(pretrained.model), indent=2) + "\n"
    return {address.file: str(weights), _CONFIG: config.encode(), _CARD: card.encode()}


def _commit(hub: ModuleType, address: HubAddress, head: str | None, files: dict) -> str:
    api = hub.HfApi()
    operations = [hub.CommitOperationAdd(name, content) for name, content in files.items()]
    try:
        with quiet_hub():
            if head is None:
                api.create_repo(address.repo, private=True)
                tell(f"created: {address.repo}, a private repository; its settings make it public")
            commit = api.create_commit(
                address.repo,
                operations,
                commit_message=f"Add {address.file}, written by vitdeblur_jax",
                revision=address.revision,
                parent_commit=head,
            )
    except Exception as error:
        raise UserError(f"{address}: cannot be pushed: {hub_reason(error)}") from error
    return commit.oid
