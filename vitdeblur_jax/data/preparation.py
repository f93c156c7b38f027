"""Data sets written once as records, which training reads several times as fast as the files.

The result is a data set of TensorFlow Datasets, `OUT/NAME/CONFIG/VERSION`, with the records that
the builder of that name would write, in that order. Until it is whole its folder is called
`VERSION.unfinished`, and `preparation.json` in it tells which files of records are done, from what.
"""

import contextlib
import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from vitdeblur_jax.data.recognition import recognize
from vitdeblur_jax.data.sources import FolderSource, SyntheticSource
from vitdeblur_jax.errors import UserError, known, one_line
from vitdeblur_jax.files import replaced_when_whole, write_text
from vitdeblur_jax.progress import Progress

_JOURNAL = "preparation.json"
_PHOTOGRAPHS_A_SHARD = 8  # as many, or more, so that there are no more shards than the next line
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
    "photographs": "synthetic_defocus",
}


@dataclass(frozen=True)
class _Shard:
    """Some photographs of a split, in a row, that become one file of records."""

    file: str
    split: str
    source: FolderSource | SyntheticSource
    records: range
    fingerprint: str


@dataclass(frozen=True)
class _Done:
    """What has become of a shard."""

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
) -> Path:
    """Write a data set as records that `sources.PreparedSource` and TensorFlow Datasets read.

    Started again after any interruption it goes on, and ends with the same bytes: equal files,
    dataset and config give equal records in equal order. What was written from files that have
    changed since is written anew. Progress and what is left out are told on standard error.

    Args:
        root: The folder of the data set, in any layout that `layouts.find_pairs` knows.
        dataset: A name of `builders.BUILDERS`; None takes what `recognition.recognize` finds, and
            of plain photographs makes synthetic defocus.
        out: Holds all prepared data sets, as the `data_dir` of TensorFlow Datasets.
        config: A config of the builder, such as "dual_pixel_16bit"; None takes its first.
        skip_broken: Leave out photographs that cannot be read, or do not fit their partner, instead
            of giving up at the first.

    Returns:
        The folder of the whole data set. One that is there already, from the same files, is kept.

    Raises:
        UserError: An unknown dataset or config; the data set is not in the root, or not whole; a
            broken photograph; a folder that cannot be written, or holds another data set.
    """
    builder = _builder(dataset or _BUILDER_OF[recognize(root).dataset], config, out)
    folder = Path(builder.data_dir)
    shards = _plan(builder, Path(root))
    if folder.exists():
        _check_is_of(folder, shards)
        return folder
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    done = _write_shards(builder, shards, unfinished, skip_broken)
    try:
        _finish(builder, shards, done, unfinished)
        os.replace(unfinished, folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({one_line(error)})") from error
    return folder


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
        every = range(len(source))
        length = max(_PHOTOGRAPHS_A_SHARD, -(-len(source) // _MOST_SHARDS))
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
        content.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return content.hexdigest()


def _check_is_of(folder: Path, shards: Sequence[_Shard]) -> None:
    journal = _read_journal(folder)
    for shard in shards:
        if shard.file not in journal or journal[shard.file].fingerprint != shard.fingerprint:
            raise UserError(
                f"{folder} was prepared from other files (see {shard.file}); delete it, or choose "
                "another folder"
            )


def _write_shards(
    builder, shards: Sequence[_Shard], folder: Path, skip_broken: bool
) -> dict[str, _Done]:
    """Write those files of records that are not there yet, and tell what is in all of them."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*.tmp"):  # of a run that was killed
            leftover.unlink()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({one_line(error)})") from error
    journal = _read_journal(folder)
    done = {
        shard.file: journal[shard.file]
        for shard in shards
        if _is_done(shard, journal.get(shard.file), folder, skip_broken)
    }
    with (
        Progress(sum(len(shard.records) for shard in shards), "photographs") as progress,
        ThreadPoolExecutor(_THREADS) as executor,
    ):
        for shard in shards:
            if shard.file in done:
                progress.advance(len(shard.records))
                continue
            done[shard.file] = _write_shard(builder, shard, folder, skip_broken, executor, progress)
            entries = {file: asdict(entry) for file, entry in done.items()}
            write_text(folder / _JOURNAL, json.dumps(entries, indent=1))
    return done


def _is_done(shard: _Shard, known: _Done | None, folder: Path, skip_broken: bool) -> bool:
    if known is None or known.fingerprint != shard.fingerprint:
        return False
    return (folder / shard.file).is_file() and (skip_broken or not known.left_out)


def _write_shard(
    builder,
    shard: _Shard,
    folder: Path,
    skip_broken: bool,
    executor: ThreadPoolExecutor,
    progress: Progress,
) -> _Done:
    examples, size, left_out = 0, 0, []
    results = _in_order(executor, partial(_serialized, builder, shard), shard.records)
    with replaced_when_whole(folder / shard.file) as temporary, _records_at(temporary) as write:
        for record, result in zip(shard.records, results, strict=True):
            if isinstance(result, UserError):
                if not skip_broken:
                    message = f"{result}; mend it, or leave such photographs out by --skip-broken"
                    raise UserError(message) from result
                progress.say(f"left out: {result}")
                left_out.append(shard.source.files(record)[0].stem)
                result = []
            for serialized in result:
                write(serialized)
            examples, size = examples + len(result), size + sum(map(len, result))
            progress.advance()
    return _Done(shard.fingerprint, examples, size, left_out)


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
    messages = (serializer.get_tf_example(features.encode_example(e)) for e in examples)
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

    for path in folder.iterdir():
        if path.name not in done and path.name != _JOURNAL:
            path.unlink()
    splits = []
    for split in dict.fromkeys(shard.split for shard in shards):
        of_split = [done[shard.file] for shard in shards if shard.split == split]
        lengths, sizes = [d.examples for d in of_split], [d.bytes for d in of_split]
        if not sum(lengths):
            raise UserError(f"no photograph of {split} can be read: nothing to prepare")
        splits.append(tfds.core.SplitInfo(split, lengths, sum(sizes)))
    builder.info.set_splits(tfds.core.splits.SplitDict(splits))
    builder.info.write_to_directory(folder)


def _read_journal(folder: Path) -> dict[str, _Done]:
    try:
        entries = json.loads((folder / _JOURNAL).read_text(encoding="utf-8"))
        return {file: _Done(**entry) for file, entry in entries.items()}
    except (OSError, ValueError, TypeError):  # none, or not ours: nothing is done
        return {}
