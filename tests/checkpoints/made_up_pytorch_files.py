"""Files of `torch.save` made byte by byte, and what a test of their reader asks of them."""

import pickle
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from vitdeblur_jax.checkpoints.pytorch_files import read_pytorch_file
from vitdeblur_jax.utils.errors import UserError

DATA = Path(__file__).parent.parent / "data" / "pytorch_files"
DTYPES = [
    np.dtype(name)
    for name in (
        *("bool", "uint8", "int8", "int16", "int32", "int64"),
        *("float16", ml_dtypes.bfloat16, "float32", "float64"),
    )
]
TABLE = np.array([[0, 1, 2], [3, 4, 100]])
BASE = np.arange(24, dtype=np.float32).reshape(4, 6)


def assert_same(got, expected):
    """Asserts equality down to dtypes, shapes and the order of keys."""
    assert type(got) is type(expected)
    if isinstance(expected, dict):
        assert list(got) == list(expected)
        for key in expected:
            assert_same(got[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, np.ndarray):
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        assert got.tobytes() == expected.tobytes()
    else:
        assert got == expected


def op(value):
    """The opcodes of a plain value, from Python's own pickle."""
    return pickle.dumps(value, 2)[2:-1]


def tensor_program(
    *,
    kind=b"torch\nFloatStorage",
    key="0",
    numel=6,
    offset=0,
    size=(2, 3),
    stride=(3, 1),
    rebuild=b"_rebuild_tensor_v2",
    identity=None,
):
    """The pickle of one tensor, as PyTorch words it."""
    if identity is None:
        storage = (
            b"(" + op("storage") + b"c" + kind + b"\n" + op(key) + op("cpu") + op(numel) + b"t"
        )
    else:
        storage = op(identity)
    place = op(offset) + op(size) + op(stride)
    hooks = b"\x89ccollections\nOrderedDict\n)R" if rebuild.endswith(b"v2") else b""
    head = b"\x80\x02ctorch._utils\n" + rebuild + b"\n("
    return head + storage + b"Q" + place + hooks + b"tR."


def write_zip(path, program, storages=None, byteorder=None, folder="model", method=0):
    if storages is None:
        storages = {"0": np.arange(6, dtype="<f4").tobytes()}
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(f"{folder}/data.pkl", program)
        if byteorder:
            archive.writestr(f"{folder}/byteorder", byteorder)
        for key, data in storages.items():
            archive.writestr(f"{folder}/data/{key}", data)
        archive.writestr(f"{folder}/version", "3\n")
    return path


def write_legacy(path, program):
    header = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in header) + program)
    return path


def refusal(path):
    """Reads a file that must be refused and returns the message, checked to be one clear line."""
    with pytest.raises(UserError) as caught:
        read_pytorch_file(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message
