"""Data sets written once as records, which training reads several times as fast as the files.

The result is a data set of TensorFlow Datasets, `OUT/NAME/CONFIG/VERSION`, with the records that
the builder of that name would write, in that order. Until it is whole its folder is called
`VERSION.unfinished`, and `preparation/` in it tells which files of records are done, from what;
`preparation.json` does so ever after.
"""

import contextlib
import hashlib
import json
import os
import shlex
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vitdeblur_jax.data import beam
from vitdeblur_jax.data.layouts import describe
from vitdeblur_jax.data.recognition import recognize
from vitdeblur_jax.data.sources import INFO, FolderSource, SyntheticSource, with_name_in_bytes
from vitdeblur_jax.utils.errors import UserError, known, one_line
from vitdeblur_jax.utils.files import remove_abandoned, replaced_when_whole, write_text
from vitdeblur_jax.utils.json_files import read_json
from vitdeblur_jax.utils.output import tell
from vitdeblur_jax.utils.progress import Progress

_JOURNAL = "preparation.json"
_ENTRIES = "preparation"
_IMAGES_A_SHARD = 8  # as many, or more, so that there are no more shards than the next line
_MOST_SHARDS = 128  # a reader keeps them all open
_UNCOMPRESSED = "group_size:1,uncompressed"  # random access; the default compression takes longer
_THREADS = os.cpu_count() or 1
_AHEAD = 2 * _THREADS
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


@dataclass(frozen=True)
class _Shard:
    """Some images of a split, in a row, that become one file of records."""

    file: str
    split: str
    source: FolderSource | SyntheticSource
    records: range
    fingerprint: str


@dataclass(frozen=True)
class _Done:
    """What has become of a shard.

    Attributes:
        fingerprint: Of the shard.
        examples: How many records there are.
        bytes: The sum of their sizes.
        left_out: What was wrong with each image that was skipped.
    """

    fingerprint: str
    examples: int
    bytes: int
    left_out: list[str]


def prepare(
    root: str | os.PathLike[str],
    dataset: str | None,
    out: str | os.PathLike[str],
    *,
    config: str | None = None,
    skip_broken: bool = False,
    beam_options: Sequence[str] | None = None,
) -> Path:
    """Write a data set as records that `sources.PreparedSource` and TensorFlow Datasets read.

    Started again after any interruption it goes on, and ends with the same bytes: equal files,
    dataset and config give equal records in equal order. What was written from files that have
    changed since is written anew. Progress and what is left out are told on standard error.

    Args:
        root: The folder of the data set, in any layout that `layouts.find_pairs` knows.
        dataset: A name of `builders.BUILDERS`; None takes what `recognition.recognize` finds, and
            of plain images makes synthetic defocus.
        out: Holds all prepared data sets, as the `data_dir` of TensorFlow Datasets.
        config: A config of the builder, such as "dual_pixel_16bit"; None takes its first.
        skip_broken: Leave out images that cannot be read, or do not fit their partner, instead
            of giving up at the first.
        beam_options: Write the files of records on the workers of Apache Beam, all of which have to
            see root and out under these paths. These are the options of its pipeline, such as
            ["--runner=FlinkRunner"]; none take the DirectRunner. None does without Beam. What is
            written is the same.

    Returns:
        The folder of the whole data set. One that is there already, from the same files, is kept.

    Raises:
        UserError: An unknown dataset or config; the data set is not in the root, or not whole; a
            broken image; a folder that cannot be written, or holds another data set; an
            address such as gs://BUCKET for a folder; no Beam, a wrong option of it, or its failure.
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
        _write_on_beam(pipeline, builder, shards, root, unfinished, skip_broken)
    done = _write_shards(builder, shards, unfinished, skip_broken)
    try:
        _finish(builder, shards, done, unfinished)
        os.replace(unfinished, folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({one_line(error)})") from error
    return folder


def training_flags(folder: Path) -> str:
    """Return the flags of train.py for what `prepare` has written, "" without a split train.

    What is not trained on is validated with, if there is anything.
    """
    splits = [split["name"] for split in read_json(folder / INFO)["splits"]]
    if "train" not in splits:
        return ""
    flags = ["data.kind=prepared", f"data.root={folder}"]
    if folder.parent.name.startswith("dual_pixel"):
        flags.append("model.views=2")
    if "val" not in splits:
        flags.append("validation.split=test" if "test" in splits else "validation.every=0")
    return " ".join(f"--config.{shlex.quote(flag)}" for flag in flags)


def _check_is_mounted(folder: str | os.PathLike[str]) -> None:
    if "://" in os.fspath(folder):
        raise UserError(
            f"{folder} is no folder: data sets are read from and written to file systems; mount "
            "the bucket (as gcsfuse does) and give the folder where it lies"
        )


def _builder(dataset: str, config: str | None, out: str | os.PathLike[str]):
    try:
        from vitdeblur_jax.data.builders import BUILDERS
    except ImportError as error:
        message = "preparing data needs TensorFlow Datasets: pip install 'vitdeblur_jax[train]'"
        raise UserError(message) from error
    builder = BUILDERS[known("data set,", dataset, BUILDERS)]
    configs = [offered.name for offered in builder.BUILDER_CONFIGS]
    config = known(f"config of {dataset},", config or configs[0], configs)
    return builder(data_dir=os.path.abspath(out), config=config, file_format="array_record")


def _plan(builder, root: Path) -> list[_Shard]:
    shards = []
    for split, source in builder.sources(root).items():
        if isinstance(source, FolderSource) and (paired := describe(source.pairs)):
            tell(f"{split}: {paired}")
        every = range(len(source))
        length = max(_IMAGES_A_SHARD, -(-len(source) // _MOST_SHARDS))
        parts = [every[first : first + length] for first in every[::length]]
        for number, records in enumerate(parts):
            file = f"{builder.name}-{split}.array_record-{number:05}-of-{len(parts):05}"
            fingerprint = _fingerprint(builder, root, source, records)
            shards.append(_Shard(file, split, source, records, fingerprint))
    return shards


def _fingerprint(builder, root: Path, source, records: range) -> str:
    """Return what changes when the records would: settings, and names, sizes, times of files."""
    content = hashlib.blake2b(repr(builder.builder_config).encode(), digest_size=16)
    for path in (path for record in records for path in source.files(record)):
        try:
            status = path.stat()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({one_line(error)})") from error
        name = os.path.relpath(path, root)
        content.update(os.fsencode(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0"))
    return content.hexdigest()


def _check_is_of(folder: Path, shards: Sequence[_Shard]) -> None:
    journal = _read_json(folder / _JOURNAL)
    for shard in shards:
        entry = journal.get(shard.file)
        if not isinstance(entry, dict) or entry.get("fingerprint") != shard.fingerprint:
            raise UserError(
                f"{folder} was prepared from other files (see {shard.file}); delete it, or choose "
                "another folder"
            )


def _make_folders(folder: Path) -> None:
    try:
        (folder / _ENTRIES).mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder)  # of a run that was killed
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({one_line(error)})") from error


def _write_shards(
    builder, shards: Sequence[_Shard], folder: Path, skip_broken: bool
) -> dict[str, _Done]:
    """Write those files of records that are not there yet, and tell what is in all of them."""
    done = {}
    with (
        Progress(sum(len(shard.records) for shard in shards), "images") as progress,
        ThreadPoolExecutor(_THREADS) as executor,
    ):
        for shard in shards:
            entry = _done(shard, folder, skip_broken)
            if entry is None:
                advance = progress.advance
                entry = _write_shard(builder, shard, folder, skip_broken, executor, advance)
            else:
                progress.advance(len(shard.records))
            for problem in entry.left_out:
                progress.say(f"left out: {problem}")
            done[shard.file] = entry
    return done


def _write_on_beam(
    pipeline, builder, shards: Sequence[_Shard], root: Path, folder: Path, skip_broken: bool
) -> None:
    """Write those files of records that are not there yet and have no broken image."""
    missing = [shard for shard in shards if _done(shard, folder, skip_broken) is None]
    work = partial(_write_on_worker, builder, missing, root, folder, skip_broken)
    beam.run_for_each(pipeline, work, len(missing))


def _write_on_worker(
    builder, shards: Sequence[_Shard], root: Path, folder: Path, skip_broken: bool, number: int
) -> None:
    for needed in (root, folder):
        if not needed.is_dir():
            raise UserError(f"a worker does not see {needed}, which all of them have to share")
    # What is wrong with an image will be told by `_write_shards`, which tries again.
    with contextlib.suppress(UserError), ThreadPoolExecutor(1) as executor:
        _write_shard(builder, shards[number], folder, skip_broken, executor, lambda: None)


def _done(shard: _Shard, folder: Path, skip_broken: bool) -> _Done | None:
    """Return what was written of a shard, if it need not be written again."""
    try:
        done = _Done(**_read_json(_entry(folder, shard)))
    except TypeError:  # none, or not ours
        return None
    whole = done.fingerprint == shard.fingerprint and (folder / shard.file).is_file()
    return done if whole and (skip_broken or not done.left_out) else None


def _entry(folder: Path, shard: _Shard) -> Path:
    return folder / _ENTRIES / f"{shard.file}.json"


def _write_shard(
    builder,
    shard: _Shard,
    folder: Path,
    skip_broken: bool,
    executor: ThreadPoolExecutor,
    advance: Callable[[], None],
) -> _Done:
    examples, size, left_out = 0, 0, []
    results = _in_order(executor, partial(_serialized, builder, shard), shard.records)
    with replaced_when_whole(folder / shard.file) as temporary, _records_at(temporary) as write:
        for result in results:
            if isinstance(result, UserError):
                if not skip_broken:
                    message = f"{result}; mend it, or leave such images out by --skip-broken"
                    raise UserError(message) from result
                left_out.append(str(result))
                result = []
            for serialized in result:
                write(serialized)
            examples, size = examples + len(result), size + sum(map(len, result))
            advance()
    done = _Done(shard.fingerprint, examples, size, left_out)
    write_text(_entry(folder, shard), json.dumps(asdict(done)))
    return done


@contextlib.contextmanager
def _records_at(path: Path) -> Iterator[Callable[[bytes], bool]]:
    """Give a function that adds a record to a file, which is whole after the block.

    Raises:
        OSError: The file cannot be written.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), _UNCOMPRESSED)
    try:
        yield writer.write
        writer.close()
    except RuntimeError as error:  # array_record knows no OSError
        raise OSError(one_line(error)) from error


def _serialized(builder, shard: _Shard, record: int) -> list[bytes] | UserError:
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    try:
        examples = builder.examples(shard.split, shard.source, record)
    except UserError as error:
        return error
    features = builder.info.features
    serializer = ExampleSerializer(features.get_serialized_info())
    messages = (
        serializer.get_tf_example(features.encode_example(with_name_in_bytes(e))) for e in examples
    )
    # Otherwise the order of an example's keys would be another in each process.
    return [message.SerializeToString(deterministic=True) for message in messages]


def _in_order(
    executor: ThreadPoolExecutor, work: Callable, arguments: Sequence[int]
) -> Iterator[list[bytes] | UserError]:
    """Work on a few at a time: all results of a shard at once might not fit into memory."""
    waiting = deque(executor.submit(work, argument) for argument in arguments[:_AHEAD])
    for argument in arguments[_AHEAD:]:
        result = waiting.popleft().result()
        waiting.append(executor.submit(work, argument))
        yield result
    while waiting:
        yield waiting.popleft().result()


def _finish(builder, shards: Sequence[_Shard], done: dict[str, _Done], folder: Path) -> None:
    """Remove what an earlier plan has left and write what makes it a data set."""
    import tensorflow_datasets as tfds

    entries = {file: asdict(entry) for file, entry in done.items()}
    write_text(folder / _JOURNAL, json.dumps(entries, indent=1))
    for path in folder.iterdir():
        if path.name not in (*done, _JOURNAL, _ENTRIES):
            path.unlink()
    splits = []
    for split in dict.fromkeys(shard.split for shard in shards):
        of_split = [done[shard.file] for shard in shards if shard.split == split]
        lengths, sizes = [d.examples for d in of_split], [d.bytes for d in of_split]
        if not sum(lengths):
            raise UserError(f"no image of {split} can be read: nothing to prepare")
        splits.append(tfds.core.SplitInfo(split, lengths, sum(sizes)))
    builder.info.set_splits(tfds.core.splits.SplitDict(splits))
    builder.info.write_to_directory(folder)
    shutil.rmtree(folder / _ENTRIES)  # last: until then a next start finds what is done


def _read_json(path: Path) -> dict[str, Any]:
    """Return what a file holds, which is nothing if it is not there or is damaged."""
    try:
        return read_json(path)
    except UserError:
        return {}
