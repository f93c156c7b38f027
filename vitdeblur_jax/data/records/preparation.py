"""Writes data sets as records, which training reads several times as fast as image files.

The result is a TensorFlow Datasets folder, `OUT/NAME/CONFIG/VERSION`. It contains the same records
in the same order as the output of the builder of that name. An incomplete folder is called
`VERSION.unfinished`, and its folder `preparation/` lists the finished record files and their
inputs. A complete folder lists them in `preparation.json`.
"""

import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from vitdeblur_jax.data.pairs import describe
from vitdeblur_jax.data.recognition import recognize
from vitdeblur_jax.data.records import beam
from vitdeblur_jax.data.records.shards import (
    ENTRIES,
    Done,
    Shard,
    read_json_or_nothing,
    write_on_beam,
    write_shards,
)
from vitdeblur_jax.data.sources import INFO, FolderSource
from vitdeblur_jax.utils.errors import UserError, known, one_line
from vitdeblur_jax.utils.files import remove_abandoned, write_text
from vitdeblur_jax.utils.json_files import read_json
from vitdeblur_jax.utils.output import tell

_JOURNAL = "preparation.json"
_IMAGES_A_SHARD = 8  # at least; more if there would be more than `_MOST_SHARDS` shards
_MOST_SHARDS = 128  # a reader keeps all shards open
_BUILDER_OF = {
    "DPDD": "dpdd",
    "DPDD repack": "dpdd",
    "RealDOF": "realdof",
    "LFDOF": "lfdof",
    "LFDOF sample": "lfdof",
    "CUHK": "cuhk",
    "PixelDP": "pixeldp",
    "pairs": "paired_folder",
    "images": "synthetic_defocus",
}


def prepare(
    root: str | os.PathLike[str],
    dataset: str | None,
    out: str | os.PathLike[str],
    *,
    config: str | None = None,
    skip_broken: bool = False,
    beam_options: Sequence[str] | None = None,
) -> Path:
    """Writes a data set as records for `sources.PreparedSource` and TensorFlow Datasets.

    An interrupted preparation resumes and gives the same bytes: equal files, dataset and config
    give equal records in equal order. Records of changed files are written again. Progress and
    skipped images are reported on standard error.

    Args:
        root: The folder of the data set, in any layout that `layouts.find_pairs` supports.
        dataset: A name in `builders.BUILDERS`. None takes the result of `recognition.recognize`;
            plain images then get synthetic defocus.
        out: The folder of all prepared data sets, the `data_dir` of TensorFlow Datasets.
        config: A config of the builder, such as "dual_pixel_16bit". None takes its first config.
        skip_broken: Skip images that cannot be read or do not match their partner. Otherwise the
            first one is an error.
        beam_options: Apache Beam pipeline options, such as ["--runner=FlinkRunner"]. An empty list
            takes the DirectRunner; None does not use Beam. All Beam workers must have access to
            `root` and `out` under the same paths. The records are the same with and without Beam.

    Returns:
        The folder of the complete data set. An existing folder made from the same files is kept.

    Raises:
        UserError: The dataset or config is unknown; the data set is missing or incomplete; an image
            is broken; a folder is not writable, contains another data set, or is an address such as
            gs://BUCKET; Beam is not installed, rejects an option, or fails.
    """
    for folder in (root, out):
        _check_is_mounted(folder)
    pipeline = None if beam_options is None else beam.make_pipeline(beam_options)
    builder = _builder(dataset or _BUILDER_OF[recognize(root).dataset], config, out)
    folder = Path(builder.data_dir)
    root = Path(root).absolute()  # a worker may run in another folder
    shards = _plan(builder, root)
    if folder.exists():
        _check_is_of(folder, shards)
        return folder
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    _make_folders(unfinished)
    if pipeline is not None:
        write_on_beam(pipeline, builder, shards, root, unfinished, skip_broken)
    done = write_shards(builder, shards, unfinished, skip_broken)
    try:
        _finish(builder, shards, done, unfinished)
        os.replace(unfinished, folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({one_line(error)})") from error
    return folder


def training_flags(folder: Path) -> str:
    """Returns the flags of train.py for a prepared data set, "" if it has no train split.

    Validation uses the val split, otherwise the test split. Without both it is off.
    """
    splits = [split["name"] for split in read_json(folder / INFO)["splits"]]
    if "train" not in splits:
        return ""
    flags = ["data.kind=prepared", f"data.root={folder}", "data.hold_out=0"]
    if folder.parent.name.startswith("dual_pixel"):
        flags.append("model.views=2")
    if "val" not in splits:
        flags.append("validation.split=test" if "test" in splits else "validation.every=0")
    return " ".join(f"--config.{shlex.quote(flag)}" for flag in flags)


def _check_is_mounted(folder: str | os.PathLike[str]) -> None:
    if "://" in os.fspath(folder):
        raise UserError(
            f"{folder} is not a folder: mount the bucket as a file system, for example with "
            "gcsfuse, and give the folder where it is mounted"
        )


def _builder(dataset: str, config: str | None, out: str | os.PathLike[str]):
    try:
        from vitdeblur_jax.data.records.builders import BUILDERS
    except ImportError as error:
        message = "preparing data needs TensorFlow Datasets: pip install 'vitdeblur_jax[train]'"
        raise UserError(message) from error
    builder = BUILDERS[known("data set,", dataset, BUILDERS)]
    configs = [offered.name for offered in builder.BUILDER_CONFIGS]
    config = known(f"config of {dataset},", config or configs[0], configs)
    return builder(data_dir=os.path.abspath(out), config=config, file_format="array_record")


def _plan(builder, root: Path) -> list[Shard]:
    shards = []
    for split, source in builder.sources(root).items():
        if isinstance(source, FolderSource) and (paired := describe(source.pairs)):
            tell(f"{split}: {paired}")
        every = range(len(source))
        length = max(_IMAGES_A_SHARD, -(-len(source) // _MOST_SHARDS))
        parts = [every[first : first + length] for first in every[::length]]
        for number, indices in enumerate(parts):
            file = f"{builder.name}-{split}.array_record-{number:05}-of-{len(parts):05}"
            fingerprint = _fingerprint(builder, root, source, indices)
            shards.append(Shard(file, split, source, indices, fingerprint))
    return shards


def _fingerprint(builder, root: Path, source, indices: range) -> str:
    """Returns a hash of everything that affects the records.

    It covers the config, and the name, size and modification time of each file.
    """
    content = hashlib.blake2b(repr(builder.builder_config).encode(), digest_size=16)
    for path in (path for index in indices for path in source.files(index)):
        try:
            status = path.stat()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({one_line(error)})") from error
        name = os.path.relpath(path, root)
        content.update(os.fsencode(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0"))
    return content.hexdigest()


def _check_is_of(folder: Path, shards: Sequence[Shard]) -> None:
    journal = read_json_or_nothing(folder / _JOURNAL)
    for shard in shards:
        entry = journal.get(shard.file)
        if not isinstance(entry, dict) or entry.get("fingerprint") != shard.fingerprint:
            raise UserError(
                f"{folder} was prepared from other files (see {shard.file}); delete it or choose "
                "another folder"
            )


def _make_folders(folder: Path) -> None:
    try:
        (folder / ENTRIES).mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder)  # temporary files of a killed run
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({one_line(error)})") from error


def _finish(builder, shards: Sequence[Shard], done: dict[str, Done], folder: Path) -> None:
    """Removes files of an earlier plan and writes the metadata of the data set."""
    import tensorflow_datasets as tfds

    entries = {file: asdict(entry) for file, entry in done.items()}
    write_text(folder / _JOURNAL, json.dumps(entries, indent=1))
    for path in folder.iterdir():
        if path.name not in (*done, _JOURNAL, ENTRIES):
            path.unlink()
    splits = []
    for split in dict.fromkeys(shard.split for shard in shards):
        of_split = [done[shard.file] for shard in shards if shard.split == split]
        lengths, sizes = [d.examples for d in of_split], [d.bytes for d in of_split]
        if not sum(lengths):
            raise UserError(f"no image of the split {split} can be read")
        splits.append(tfds.core.SplitInfo(split, lengths, sum(sizes)))
    builder.info.set_splits(tfds.core.splits.SplitDict(splits))
    builder.info.write_to_directory(folder)
    shutil.rmtree(folder / ENTRIES)  # last, so that an interrupted run can resume
