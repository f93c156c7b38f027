"""Reads and writes the files of `torch.save` without PyTorch.

A file consists of a pickle and the raw bytes of its tensors: as entries of a zip archive or, before
PyTorch 1.6, one after the other.
"""

import functools
import os
import pickle
import re
import struct
import zipfile
from io import BufferedIOBase, BytesIO
from typing import Any

import numpy as np

from vitdeblur_jax.checkpoints.pickle_reading import parse_identity, unpickle
from vitdeblur_jax.checkpoints.pickle_values import ADVICE, Budget, Storage, scalar
from vitdeblur_jax.checkpoints.pickle_writing import pickle_contents
from vitdeblur_jax.utils.errors import UserError, one_line
from vitdeblur_jax.utils.files import check_regular, replaced_when_whole

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
DAMAGE = (
    ArithmeticError,
    AssertionError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    Warning,  # pickletools warns about invalid escapes, and warnings may be errors
    struct.error,
    zipfile.BadZipFile,
)


def read_pytorch_file(path: str | os.PathLike[str]) -> Any:
    """Reads a file of `torch.save`, in the zip format or the format before PyTorch 1.6.

    No code in the file is executed. Each storage is read once, into its own memory.

    Args:
      path: The file, usually `.pth`, `.pt` or `.pth.tar`.

    Returns:
      The saved object. Dicts, lists, tuples and scalars are unchanged. Tensors and parameters are
      read-only NumPy arrays, which may share memory: bool, uint8, int8/16/32/64, float16/32/64, and
      bfloat16 as `ml_dtypes.bfloat16`. An `argparse.Namespace` becomes a dict, a `torch.Size` a
      tuple, and a dtype or device a string (`"torch.float32"`, `"cuda:0"`).

    Raises:
      UserError: The file is missing, unreadable, damaged, not written by `torch.save`, or holds
        something other than data.
    """
    check_regular(path)
    try:
        with open(path, "rb") as file:
            return _read(file)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "it does not fit into memory"
        raise UserError(f"{path}: cannot be read: {reason}") from error
    except DAMAGE as error:
        reason = f"damaged or incomplete PyTorch file ({one_line(error)})"
        raise UserError(f"{path}: {reason}; fetch or save it again") from error


def _read(file: BufferedIOBase) -> Any:
    start = file.read(262)
    file.seek(0)
    if not start:
        raise UserError("the file is empty; fetch or save it again")
    budget = Budget(os.fstat(file.fileno()).st_size)
    if start.startswith(b"PK\x03\x04"):
        return _read_zip(file, budget)
    if start.startswith(pickle.PROTO):
        return _read_legacy(file, budget)
    if start[257:] == b"ustar":
        raise UserError("is in the tar format of PyTorch before 0.4; save it with a newer version")
    raise UserError(f"was not written by torch.save: it begins with {start[:16]!r}")


def _read_zip(file: BufferedIOBase, budget: Budget) -> Any:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        folder = next((n[:-8] for n in names if re.fullmatch(r"[^/]+/data\.pkl", n)), None)
        if folder is None:
            raise UserError("is a zip archive, but not by torch.save: it has no data.pkl")
        if sum(entry.file_size for entry in archive.infolist()) > os.fstat(file.fileno()).st_size:
            raise UserError("its entries are larger than the file itself")
        has_order = f"{folder}byteorder" in names
        order = _entry(archive, f"{folder}byteorder").decode("ascii") if has_order else "little"

        @functools.cache
        def raw(key: str) -> np.ndarray:
            return np.frombuffer(_entry(archive, f"{folder}data/{key}"), np.uint8)

        def storage(identity: Any) -> Storage:
            key, dtype, size = parse_identity(identity)
            if raw(key).size != size:
                raise ValueError(f"storage {key[:20]!r} has {raw(key).size} bytes, not {size}")
            return Storage(raw(key), dtype, order)

        return unpickle(BytesIO(_entry(archive, f"{folder}data.pkl")), budget, storage)


def _entry(archive: zipfile.ZipFile, name: str) -> bytes:
    # torch.save never compresses, and an uncompressed entry cannot be larger than the file.
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise UserError(f"entry {name[:80]!r} is compressed; save it again with torch.save")
    return archive.read(name)


def _read_legacy(file: BufferedIOBase, budget: Budget) -> Any:
    if unpickle(file, budget) != _LEGACY_MAGIC:
        raise UserError(f"is a pickle, but not by torch.save; {ADVICE}")
    for _ in ("protocol version", "system information"):
        unpickle(file, budget)
    file_size = os.fstat(file.fileno()).st_size
    storages: dict[str, Storage] = {}

    # The bytes follow the pickle, so tensors are views of memory that is filled later.
    def storage(identity: Any) -> Storage:
        key, dtype, size = parse_identity(identity)
        if key not in storages:
            if size + sum(other.raw.size for other in storages.values()) > file_size:
                raise ValueError("its tensors are larger than the file")
            storages[key] = Storage(np.empty(size, np.uint8), dtype)
        return storages[key]

    contents = unpickle(file, budget, storage)
    for key in unpickle(file, budget):
        storage_of_key = storages.pop(scalar(key))
        raw, dtype = storage_of_key.raw, storage_of_key.dtype
        (count,) = struct.unpack("<q", file.read(8))
        if count * dtype.itemsize != raw.size or file.readinto(raw) != raw.size:
            raise ValueError("it ends inside a tensor")
    if storages:
        raise ValueError("a tensor has no storage")
    return contents


def write_pytorch_file(path: str | os.PathLike[str], contents: Any, overwrite: bool = True) -> None:
    """Writes a file that `torch.load` reads, also with `weights_only=True`.

    An existing file is replaced only when the new one is complete. Equal contents give equal bytes.

    Args:
      path: The file to write, in an existing folder.
      contents: Dicts (keys: str, int, float, bool, None), lists and tuples of str, int, float,
        bool, None and NumPy arrays. Arrays become tensors and may be bool, uint8, int8/16/32/64,
        float16/32/64 or bfloat16. NumPy scalars become Python numbers.
      overwrite: Replace an existing file.

    Raises:
      UserError: The contents hold something else, or the file cannot be written.
    """
    try:
        program, arrays = pickle_contents(contents)
    except RecursionError:
        raise UserError(f"{path}: the contents are nested too deeply to write") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    with replaced_when_whole(path, overwrite) as temporary, open(temporary, "wb") as file:
        _write_archive(file, program, arrays)


def _write_archive(file: BufferedIOBase, program: bytes, arrays: list[np.ndarray]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        _write_entry(archive, file, "data.pkl", program)
        _write_entry(archive, file, "byteorder", b"little")
        for index, array in enumerate(arrays):
            flat = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1)
            _write_entry(archive, file, f"data/{index}", flat.view(np.uint8))
        _write_entry(archive, file, "version", b"3\n")


def _write_entry(archive: zipfile.ZipFile, file: BufferedIOBase, name: str, data: Any) -> None:
    # The time and the system are fixed, so that equal contents give equal bytes.
    entry = zipfile.ZipInfo(f"archive/{name}", date_time=(1980, 1, 1, 0, 0, 0))
    entry.create_system = 3
    # The data follows a header of 30 bytes, the name and this padding. It starts at a multiple of
    # 64 bytes, so that PyTorch can memory-map a tensor.
    padding = -(file.tell() + 30 + len(entry.filename) + 4) % 64
    entry.extra = struct.pack("<2sH", b"FB", padding) + bytes(padding)
    archive.writestr(entry, data)
