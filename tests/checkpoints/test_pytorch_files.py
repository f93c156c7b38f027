"""The reader against files of PyTorch itself, and against damaged ones.

`zip.pth`, `legacy.pth` and `protocol4.pth` were written by PyTorch 2.13 and NumPy 2.4 with:

    import argparse, collections, numpy as np, torch

    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    names = "bool uint8 int8 int16 int32 int64 float16 bfloat16 float32 float64"
    table = torch.tensor([[0, 1, 2], [3, 4, 100]])
    contents = {
        "dtypes": {name: table.to(getattr(torch, name)) for name in names.split()},
        "views": [base, base.t(), base[1:3, ::2], base[0].expand(2, 6)],
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.tensor([1.5, -2.5])),
        "state_dict": torch.nn.BatchNorm1d(2).state_dict(),
        "names": (torch.Size([2, 3]), torch.float32, torch.device("cuda:1"), torch.device("cpu")),
        "plain": [
            None, True, False, 3, -70000, 2**40, 0.1, "ü", (), (1,), (1, 2, 3, 4), b"", b"ab",
        ],
        "ordered": collections.OrderedDict([("b", 1), ("a", 2)]),
        "args": argparse.Namespace(lr=0.5, sizes=[224, 224], name="base"),
        "numpy": [
            np.float64(0.25), np.int64(-3), np.bool_(True), np.arange(6.0).reshape(2, 3),
            np.asfortranarray(np.arange(6).reshape(2, 3)), np.zeros((0, 2)),
            np.arange(3, dtype=">i4"),
        ],
    }
    torch.save(contents, "zip.pth")
    torch.save(contents, "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(contents, "protocol4.pth", pickle_protocol=4)
"""

import io
import pickle
import struct
import tarfile
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest

from tests.checkpoints.made_up_pytorch_files import (
    BASE,
    DATA,
    DTYPES,
    TABLE,
    assert_same,
    op,
    refusal,
    tensor_program,
    write_zip,
)
from vitdeblur_jax.checkpoints.pytorch_files import read_pytorch_file
from vitdeblur_jax.utils.errors import UserError


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth", "protocol4.pth"])
def test_reads_what_pytorch_wrote(name):
    contents = read_pytorch_file(DATA / name)
    numbers = contents.pop("numpy")
    assert_same(
        contents,
        {
            "dtypes": {dtype.name: TABLE.astype(dtype) for dtype in DTYPES},
            "views": [BASE, BASE.T, BASE[1:3, ::2], np.stack([BASE[0], BASE[0]])],
            "scalar": np.array(7),
            "empty": np.zeros((0, 3), np.float32),
            "parameter": np.array([1.5, -2.5], np.float32),
            "state_dict": OrderedDict(
                weight=np.ones(2, np.float32),
                bias=np.zeros(2, np.float32),
                running_mean=np.zeros(2, np.float32),
                running_var=np.ones(2, np.float32),
                num_batches_tracked=np.array(0),
            ),
            "names": ((2, 3), "torch.float32", "cuda:1", "cpu"),
            "plain": [
                *(None, True, False, 3, -70000, 2**40, 0.1, "ü"),
                *((), (1,), (1, 2, 3, 4), b"", b"ab"),
            ],
            "ordered": OrderedDict([("b", 1), ("a", 2)]),
            "args": {"lr": 0.5, "sizes": [224, 224], "name": "base"},
        },
    )
    assert_same(numbers[:3], [np.float64(0.25), np.int64(-3), np.True_])
    six = np.arange(6).reshape(2, 3)
    assert_same(numbers[3:6], [six.astype(float), six, np.zeros((0, 2))])
    assert numbers[6].tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth"])
def test_views_share_memory_and_cannot_be_written(name):
    views = read_pytorch_file(DATA / name)["views"]
    assert all(np.shares_memory(views[0], view) for view in views)
    assert not any(view.flags.writeable for view in views)


def test_any_folder_name_and_the_oldest_tensor_call(tmp_path):
    program = tensor_program(rebuild=b"_rebuild_tensor")
    path = write_zip(tmp_path / "old.pt", program, folder="a b.c")
    assert_same(read_pytorch_file(path), np.arange(6, dtype=np.float32).reshape(2, 3))


@pytest.mark.parametrize("value", [np.float32(0.1), np.arange(6.0).reshape(2, 3)])
def test_numpy_values_of_numpy_1(tmp_path, value):
    program = pickle.dumps(value, 2)
    assert b"numpy._core.multiarray\n" in program
    program = program.replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n")
    assert_same(read_pytorch_file(write_zip(tmp_path / "a.pt", program)), value)


def test_numpy_values_of_python_2(tmp_path):
    """There, bytes were strings, which are read as Latin-1."""
    dtype = b"cnumpy\ndtype\n(U\x02f8K\x00K\x01tR"
    dtype += b"(K\x03U\x01<NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
    data = b"U\x08" + struct.pack("<d", 0.1)
    program = b"\x80\x02cnumpy.core.multiarray\nscalar\n" + dtype + data + b"\x86R."
    assert_same(read_pytorch_file(write_zip(tmp_path / "a.pt", program)), np.float64(0.1))


def test_an_axis_of_size_one_may_have_any_stride(tmp_path):
    path = write_zip(tmp_path / "a.pt", tensor_program(size=(1, 6), stride=(2**62, 1)))
    assert_same(read_pytorch_file(path), np.arange(6, dtype=np.float32).reshape(1, 6))


@pytest.mark.parametrize(
    ("kind", "code", "dtype"),
    [("Float", ">6f", np.float32), ("Long", ">6q", np.int64), ("Byte", ">6B", np.uint8)],
)
def test_big_endian(tmp_path, kind, code, dtype):
    program = tensor_program(kind=f"torch\n{kind}Storage".encode(), size=(3, 2), stride=(1, 3))
    storages = {"0": struct.pack(code, *range(6))}
    path = write_zip(tmp_path / "big.pt", program, storages, byteorder="big")
    assert_same(read_pytorch_file(path), np.arange(6, dtype=dtype).reshape(2, 3).T)


def test_big_endian_bfloat16(tmp_path):
    program = tensor_program(kind=b"torch\nBFloat16Storage", numel=2, size=(2,), stride=(1,))
    path = write_zip(tmp_path / "b.pt", program, {"0": b"\x3f\x80\xc0\x00"}, byteorder="big")
    assert_same(read_pytorch_file(path), np.array([1, -2], ml_dtypes.bfloat16))


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth"])
def test_every_truncation_is_an_error(tmp_path, name):
    whole = (DATA / name).read_bytes()
    path = tmp_path / "cut.pth"
    for length in {*range(0, len(whole), 29), *range(len(whole) - 30, len(whole))}:
        path.write_bytes(whole[:length])
        refusal(path)


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth"])
def test_a_changed_byte_raises_only_user_errors(tmp_path, name):
    whole = (DATA / name).read_bytes()
    path = tmp_path / "changed.pth"
    refused = 0
    for position in range(0, len(whole), 31):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            read_pytorch_file(path)
        except UserError:
            refused += 1
    assert refused > 20


def test_a_changed_weight_in_a_zip_is_noticed(tmp_path):
    whole = bytearray((DATA / "zip.pth").read_bytes())
    start = whole.index(BASE.tobytes())
    whole[start + 6] ^= 1
    path = tmp_path / "changed.pth"
    path.write_bytes(whole)
    assert "damaged" in refusal(path)


def tar_file(path):
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("sys_info"), io.BytesIO())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "directory"),
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_text("<!DOCTYPE html>\n<html>\n"), "<!DOCTYPE html>"),
        (lambda path: path.write_bytes(b"\x10\0\0\0\0\0\0\0{}"), "not written by torch.save"),
        (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "not by torch.save"),
        (lambda path: path.write_bytes(pickle.dumps({"a": 1}, 0)), "not written by torch.save"),
        (tar_file, "tar format"),
        (lambda path: zipfile.ZipFile(path, "w").close(), "not written by torch.save"),
        (lambda path: write_zip(path, b"", folder="a/b"), "no data.pkl"),
        (lambda path: write_zip(path, op(1), method=zipfile.ZIP_DEFLATED), "compressed"),
    ],
)
def test_other_files_are_one_error_line(tmp_path, make, words):
    path = tmp_path / "some file.pth"
    make(path)
    assert words in refusal(path)
