"""The writer of PyTorch files against our reader and stock Python; writes that fail."""

import argparse
import errno
import io
import os
import pickle
import resource
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest

from tests.checkpoints.made_up_pytorch_files import BASE, DTYPES, TABLE, assert_same
from vitdeblur_jax.checkpoints.pytorch_files import read_pytorch_file, write_pytorch_file
from vitdeblur_jax.utils.errors import UserError


def sample():
    return {
        "model": {dtype.name: TABLE.astype(dtype) for dtype in DTYPES},
        "num_batches_tracked": np.array(7),
        "empty": np.zeros((0, 3), np.float32),
        "plain": [None, True, False, 0, 255, -(2**31), 2**31, -(2**63), 2**63 - 1, 0.1, "ü\n"],
        "nested": ((), (1,), (1, 2, 3, 4), [], {}, {3: 1, None: 2, 0.5: {"b": 1, "a": 2}}),
    }


def test_what_is_written_is_read_back(tmp_path):
    write_pytorch_file(tmp_path / "a.pth", sample())
    assert_same(read_pytorch_file(tmp_path / "a.pth"), sample())


def test_any_layout_is_written_in_order(tmp_path):
    arrays = [BASE.T, BASE[::-1, ::2], BASE.astype(">f4"), np.broadcast_to(BASE[0], (2, 6))]
    write_pytorch_file(tmp_path / "a.pth", arrays)
    expected = [np.array(array, np.float32, order="C") for array in arrays]
    assert_same(read_pytorch_file(tmp_path / "a.pth"), expected)


def test_numpy_scalars_are_written_as_numbers(tmp_path):
    write_pytorch_file(tmp_path / "a.pth", [np.float32(0.5), np.int64(-4), np.uint8(4), np.True_])
    assert_same(read_pytorch_file(tmp_path / "a.pth"), [0.5, -4, 4, True])


class StockReader(pickle.Unpickler):
    """Python's own unpickler with stand-ins for PyTorch, to judge the writer without our reader."""

    def __init__(self, archive):
        super().__init__(io.BytesIO(archive.read("archive/data.pkl")))
        self.archive = archive

    def find_class(self, module, name):
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self.tensor
        if module == "torch":
            return name
        assert (module, name) == ("collections", "OrderedDict")
        return OrderedDict

    def persistent_load(self, identity):
        tag, kind, key, location, numel = identity
        assert (tag, location) == ("storage", "cpu")
        code = {
            **{"Bool": "?", "Byte": "u1", "Char": "i1", "Short": "i2", "Int": "i4", "Long": "i8"},
            **{"Half": "f2", "Float": "f4", "Double": "f8", "BFloat16": ml_dtypes.bfloat16},
        }[kind.removesuffix("Storage")]
        values = np.frombuffer(self.archive.read(f"archive/data/{key}"), code)
        assert values.size == numel
        return values

    def tensor(self, storage, offset, size, stride, requires_grad, hooks):
        assert (offset, requires_grad, hooks) == (0, False, OrderedDict())
        axes = [np.arange(length) * step for length, step in zip(size, stride, strict=True)]
        places = np.zeros(size, int)
        for grid in np.meshgrid(*axes, indexing="ij"):
            places = places + grid
        return np.asarray(storage[places])


def test_the_stock_unpickler_reads_what_is_written(tmp_path):
    write_pytorch_file(tmp_path / "a.pth", sample())
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        assert archive.testzip() is None
        assert archive.read("archive/version") == b"3\n"
        assert archive.read("archive/byteorder") == b"little"
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
        assert archive.read("archive/data.pkl").startswith(b"\x80\x02")
        assert_same(StockReader(archive).load(), sample())


def test_storages_lie_at_multiples_of_64(tmp_path):
    array = np.frombuffer(b"0123456789abcdef", np.int8)
    write_pytorch_file(tmp_path / "a.pth", {"x" * 7: array, "y": array[:3], "z": array[::-1]})
    whole = (tmp_path / "a.pth").read_bytes()
    assert whole.index(array.tobytes()) % 64 == 0
    assert whole.index(array[::-1].tobytes()) % 64 == 0


def test_pytorch_reads_what_is_written(tmp_path):
    torch = pytest.importorskip("torch")
    write_pytorch_file(tmp_path / "a.pth", sample())
    for weights_only in (True, False):
        contents = torch.load(tmp_path / "a.pth", weights_only=weights_only)
        for name, tensor in contents["model"].items():
            assert tensor.dtype == getattr(torch, name)
            assert torch.equal(tensor, torch.from_numpy(TABLE).to(tensor.dtype))
        assert (contents["num_batches_tracked"].shape, contents["empty"].shape) == ((), (0, 3))
        assert contents["plain"] == sample()["plain"]
        assert contents["nested"] == sample()["nested"]


def test_equal_contents_give_equal_bytes(tmp_path):
    write_pytorch_file(tmp_path / "a.pth", sample())
    write_pytorch_file(tmp_path / "b.pth", sample())
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()


def test_an_older_file_is_replaced_and_nothing_else_left(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"old")
    write_pytorch_file(str(tmp_path / "a.pth"), {"a": 1})
    assert read_pytorch_file(tmp_path / "a.pth") == {"a": 1}
    assert os.listdir(tmp_path) == ["a.pth"]


ENDLESS = []
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ({"a": [1, object()]}, "contents['a'][1] (object)"),
        ({"a": np.zeros(2, complex)}, "contents['a'] (ndarray complex128)"),
        (np.array([None]), "contents (ndarray object)"),
        (np.zeros(2, np.uint16), "uint16"),
        ([{1}], "contents[0] (set)"),
        ({"a": argparse.Namespace()}, "Namespace"),
        ({"a": {(1, 2): 3}}, "key (1, 2) of contents['a']"),
        (2**63, "int"),
        (b"bytes", "bytes"),
        (ENDLESS, "nested too deeply"),
    ],
)
def test_other_contents_are_refused_before_anything_is_written(tmp_path, contents, words):
    path = tmp_path / "a.pth"
    with pytest.raises(UserError) as caught:
        write_pytorch_file(path, contents)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def failed_write(path):
    """Writes 400 kB over an old file, which must fail and leave the old file."""
    path.write_bytes(b"old")
    with pytest.raises(UserError) as caught:
        write_pytorch_file(path, {"a": np.ones(50_000), "b": np.ones(2)})
    assert str(caught.value).startswith(f"{path}: cannot be written (")
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("limit", [3, 100, 10_000, 400_700])
def test_a_disk_that_fills_up_leaves_the_old_file(tmp_path, limit):
    (tmp_path / "a.pth").write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        failed_write(tmp_path / "a.pth")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_late_failure_leaves_the_old_file(tmp_path, monkeypatch, call):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    failed_write(tmp_path / "a.pth")


def test_an_interruption_leaves_no_temporary_file(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_pytorch_file(tmp_path / "a.pth", {"a": 1})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("place", ["missing/a.pth", "file/a.pth", "folder", "n" * 300])
def test_an_invalid_path_is_an_error(tmp_path, place):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        write_pytorch_file(tmp_path / place, {"a": 1})
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
