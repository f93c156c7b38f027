"""The folder of a run: one process at a time, and one config."""

import contextlib
import errno
import fcntl
import json
import os
import socket
from collections.abc import Collection, Iterator
from pathlib import Path

import ml_collections

from vitdeblur_jax.checkpoints.addresses import without_queries
from vitdeblur_jax.checkpoints.orbax_folders import step_folders
from vitdeblur_jax.data.image_io import READABLE_SUFFIXES, images_in
from vitdeblur_jax.training.bucket_lock import bucket_lock
from vitdeblur_jax.utils.buckets import AnyPath, as_path, is_of_storage, is_remote, names_in
from vitdeblur_jax.utils.errors import UserError, one_line
from vitdeblur_jax.utils.files import write_text
from vitdeblur_jax.utils.json_files import read_json
from vitdeblur_jax.utils.output import tell
from vitdeblur_jax.utils.versions import versions

# The files that a run writes, besides config.json and the lock.
_WRITTEN = (
    *(
        "versions.json",
        "parameters.txt",
        "log.jsonl",
        "tensorboard",
        "trackers",
        "checkpoints",
        "validation_images",
    ),
    "profile",
)
_SHOWN_DIFFERENCES = 5
_HELD_BY_ANOTHER = (errno.EAGAIN, errno.EACCES)
_ABSENT = "absent"


@contextlib.contextmanager
def run_folder(
    workdir: str | AnyPath,
    config: ml_collections.ConfigDict,
    free_keys: Collection[str],
    defaults: ml_collections.ConfigDict,
) -> Iterator[AnyPath]:
    """Yields the folder of a run, locked for this process; created if missing.

    Once the folder has a checkpoint, only `free_keys` of the config may change. Without one,
    `config.json` and `versions.json` are written; a resumed run calls `write_config` after
    all checks. A new run's folder may hold other files, but not images, results of
    `evaluate.py` or `vitdeblur score`, or those of a run without its `config.json`.

    Args:
      workdir: The folder.
      config: Config of the run.
      free_keys: Dotted paths of keys, or groups of keys, that may differ from the existing config.
      defaults: Values of keys that the existing config lacks: an earlier version of the package,
        which did not have them, wrote it.

    Raises:
      UserError: The folder cannot be used, another process uses it, or it holds another run.
    """
    folder = as_path(workdir)
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _check_contents(folder)
            _check_is_no_data(folder, config)
            stack.enter_context(_locked(folder))
        except Exception as error:
            if not is_of_storage(error):
                raise
            raise UserError(f"the workdir {folder} cannot be used ({one_line(error)})") from error
        if (folder / "config.json").exists() and step_folders(folder / "checkpoints"):
            _check_config(folder, config, free_keys, defaults)
        else:
            write_config(folder, config)
        yield folder


def write_config(folder: AnyPath, config: ml_collections.ConfigDict) -> None:
    """Writes `config.json`, without the queries of addresses, and `versions.json`."""
    write_text(folder / "config.json", _as_json(config))
    write_text(folder / "versions.json", json.dumps(versions(), indent=2) + "\n")


def check_is_shared(folder: AnyPath) -> None:
    """Raises `UserError` if this process does not see the files of the first process."""
    if not (folder / "config.json").exists():
        raise UserError(
            f"the files that process 0 wrote are missing in the workdir {folder}; it must be on a "
            "disk that all machines share"
        )


def _check_contents(folder):
    if (folder / "config.json").exists():
        return
    others = ["metrics.json"] if (folder / "metrics.json").exists() else _images(folder)[:1]
    if others:
        raise UserError(
            f"the workdir {folder} holds {others[0]}, which is not of a training run; "
            "choose another --workdir"
        )
    written = [name for name in _WRITTEN if (folder / name).exists()]
    if written:
        raise UserError(
            f"the workdir {folder} holds {', '.join(written)} of a run, but not its config.json; "
            "choose another --workdir"
        )


def _images(folder):
    if is_remote(folder):
        names = names_in(folder)
        return [name for name in names if Path(name).suffix.lower() in READABLE_SUFFIXES]
    return [path.name for path in images_in(folder)]


def _check_is_no_data(folder, config):
    if is_remote(folder):
        return
    sets = [config.data, *config.data.get("sets", {}).values()]
    roots = [Path(data["root"]) for data in sets if data.get("root")]
    if any(root.exists() and root.samefile(folder) for root in roots):
        raise UserError(f"the workdir {folder} is the folder of the data; choose another --workdir")


@contextlib.contextmanager
def _locked(folder):
    if is_remote(folder):
        with bucket_lock(folder):
            yield
    else:
        with open(folder / "lock", "a+") as lock:
            _take(lock, folder)
            yield


def _take(lock, folder):
    """Locks the open file until this process exits, even if it is killed."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD_BY_ANOTHER:
            lock.seek(0)
            raise UserError(
                f"the workdir {folder} is in use by {lock.read().strip() or 'another process'}; "
                "wait for it or stop it, or choose another --workdir"
            ) from error
        # Some network file systems have no locks; training still works.
        tell(f"warning: {folder} cannot be locked ({one_line(error)})")
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.flush()


def _as_json(config):
    return json.dumps(without_queries(config.to_dict()), indent=2, sort_keys=True) + "\n"


def _check_config(folder, config, free_keys, defaults):
    """Raises `UserError` if the folder's config differs in keys that are not free."""
    try:
        earlier = _flat(without_queries(read_json(folder / "config.json")))
    except UserError as error:
        raise UserError(f"{error}; choose another --workdir") from error
    now, defaults = _flat(json.loads(_as_json(config))), _flat(defaults.to_dict())
    added = {key: defaults[key] for key in now.keys() & defaults.keys()}
    _check_same_run(folder, added | earlier, now, free_keys)


def _check_same_run(folder, earlier, now, free_keys):
    differences = [
        f"{key}: {earlier.get(key, _ABSENT)} -> {now.get(key, _ABSENT)}"
        for key in sorted(earlier.keys() | now.keys())
        if earlier.get(key, _ABSENT) != now.get(key, _ABSENT) and not _is_free(key, free_keys)
    ]
    if differences:
        shown = "; ".join(differences[:_SHOWN_DIFFERENCES])
        more = len(differences) - _SHOWN_DIFFERENCES
        rest = f"; and {more} more" if more > 0 else ""
        raise UserError(
            f"the workdir {folder} holds a run with another config ({shown}{rest}); choose another "
            f"--workdir; --config.initial.checkpoint={folder} starts it from this run's weights"
        )


def _is_free(key, free_keys):
    return any(key == free or key.startswith(f"{free}.") for free in free_keys)


def _flat(config, prefix=""):
    """Returns the values as JSON, by dotted path."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value)
    return flat
