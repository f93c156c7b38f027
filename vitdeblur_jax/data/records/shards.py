"""Writes record files, each from a few images, and keeps a journal of finished files."""

import contextlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vitdeblur_jax.data.records import beam
from vitdeblur_jax.data.sources import FolderSource, SyntheticSource, with_name_in_bytes
from vitdeblur_jax.utils.errors import UserError, one_line
from vitdeblur_jax.utils.files import replaced_when_whole, write_text
from vitdeblur_jax.utils.json_files import read_json
from vitdeblur_jax.utils.progress import Progress

ENTRIES = "preparation"
_UNCOMPRESSED = "group_size:1,uncompressed"  # fast random access
_THREADS = os.cpu_count() or 1
_AHEAD = 2 * _THREADS


@dataclass(frozen=True)
class Shard:
    """Consecutive images of a split that become one record file."""

    file: str
    split: str
    source: FolderSource | SyntheticSource
    indices: range
    fingerprint: str


@dataclass(frozen=True)
class Done:
    """A finished shard.

    Attributes:
        fingerprint: The fingerprint of the shard.
        examples: Number of records.
        bytes: Total size of the records.
        left_out: Error messages of the skipped images.
    """

    fingerprint: str
    examples: int
    bytes: int
    left_out: list[str]


def write_shards(
    builder, shards: Sequence[Shard], folder: Path, skip_broken: bool
) -> dict[str, Done]:
    """Writes the missing record files and returns the journal entries of all files."""
    done = {}
    with (
        Progress(sum(len(shard.indices) for shard in shards), "images") as progress,
        ThreadPoolExecutor(_THREADS) as executor,
    ):
        for shard in shards:
            entry = _done(shard, folder, skip_broken)
            if entry is None:
                advance = progress.advance
                entry = _write_shard(builder, shard, folder, skip_broken, executor, advance)
            else:
                progress.advance(len(shard.indices))
            for problem in entry.left_out:
                progress.say(f"left out: {problem}")
            done[shard.file] = entry
    return done


def write_on_beam(
    pipeline, builder, shards: Sequence[Shard], root: Path, folder: Path, skip_broken: bool
) -> None:
    """Writes the missing record files on Beam workers, except those with a broken image."""
    missing = [shard for shard in shards if _done(shard, folder, skip_broken) is None]
    work = partial(_write_on_worker, builder, missing, root, folder, skip_broken)
    beam.run_for_each(pipeline, work, len(missing))


def _write_on_worker(
    builder, shards: Sequence[Shard], root: Path, folder: Path, skip_broken: bool, number: int
) -> None:
    for needed in (root, folder):
        if not needed.is_dir():
            raise UserError(f"a worker has no access to {needed}; all workers must share it")
    # `write_shards` tries again and reports the broken image.
    with contextlib.suppress(UserError), ThreadPoolExecutor(1) as executor:
        _write_shard(builder, shards[number], folder, skip_broken, executor, lambda: None)


def _done(shard: Shard, folder: Path, skip_broken: bool) -> Done | None:
    """Returns the entry of a shard, or None if it must be written."""
    try:
        done = Done(**read_json_or_nothing(_entry(folder, shard)))
    except TypeError:  # missing, or not a journal entry
        return None
    whole = done.fingerprint == shard.fingerprint and (folder / shard.file).is_file()
    return done if whole and (skip_broken or not done.left_out) else None


def _entry(folder: Path, shard: Shard) -> Path:
    return folder / ENTRIES / f"{shard.file}.json"


def _write_shard(
    builder,
    shard: Shard,
    folder: Path,
    skip_broken: bool,
    executor: ThreadPoolExecutor,
    advance: Callable[[], None],
) -> Done:
    examples, size, left_out = 0, 0, []
    results = _in_order(executor, partial(_serialized, builder, shard), shard.indices)
    with replaced_when_whole(folder / shard.file) as temporary, _records_at(temporary) as write:
        for result in results:
            if isinstance(result, UserError):
                if not skip_broken:
                    message = f"{result}; fix this image, or skip such images with --skip-broken"
                    raise UserError(message) from result
                left_out.append(str(result))
                result = []
            for serialized in result:
                write(serialized)
            examples, size = examples + len(result), size + sum(map(len, result))
            advance()
    done = Done(shard.fingerprint, examples, size, left_out)
    write_text(_entry(folder, shard), json.dumps(asdict(done)))
    return done


@contextlib.contextmanager
def _records_at(path: Path) -> Iterator[Callable[[bytes], bool]]:
    """Yields a function that appends a record to a file. The file is complete after the block.

    Raises:
        OSError: The file cannot be written.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), _UNCOMPRESSED)
    try:
        yield writer.write
        writer.close()
    except RuntimeError as error:  # array_record does not raise OSError
        raise OSError(one_line(error)) from error


def _serialized(builder, shard: Shard, index: int) -> list[bytes] | UserError:
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    try:
        examples = builder.examples(shard.split, shard.source, index)
    except UserError as error:
        return error
    features = builder.info.features
    serializer = ExampleSerializer(features.get_serialized_info())
    messages = (
        serializer.get_tf_example(features.encode_example(with_name_in_bytes(e))) for e in examples
    )
    # Without `deterministic`, the order of keys would differ between processes.
    return [message.SerializeToString(deterministic=True) for message in messages]


def _in_order(
    executor: ThreadPoolExecutor, work: Callable, arguments: Sequence[int]
) -> Iterator[list[bytes] | UserError]:
    """Yields results in order, with few in memory at a time."""
    waiting = deque(executor.submit(work, argument) for argument in arguments[:_AHEAD])
    for argument in arguments[_AHEAD:]:
        result = waiting.popleft().result()
        waiting.append(executor.submit(work, argument))
        yield result
    while waiting:
        yield waiting.popleft().result()


def read_json_or_nothing(path: Path) -> dict[str, Any]:
    """Returns the content of a JSON file; {} if it is missing or damaged."""
    try:
        return read_json(path)
    except UserError:
        return {}
