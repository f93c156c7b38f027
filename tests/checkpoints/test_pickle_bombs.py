"""PyTorch files that would build many times their size: refused in little time and memory."""

import struct
import time
import tracemalloc

import numpy as np
import pytest

from tests.checkpoints.made_up_pytorch_files import (
    assert_same,
    op,
    refusal,
    tensor_program,
    write_legacy,
    write_zip,
)
from vitdeblur_jax.checkpoints.pytorch_files import read_pytorch_file, write_pytorch_file

MEMO, AGAIN = b"q\xc8", b"h\xc8"  # into place 200 of the memo, and from there
BYTES = b"T" + struct.pack("<i", 10**6) + bytes(10**6)  # a text of Python 2
ARRAY = b"cnumpy._core.multiarray\n_reconstruct\n)R"
STATE = b"(" + op(1) + op((10**6,)) + b"cnumpy\ndtype\n" + op(("u1",)) + b"R\x89" + BYTES + b"t"


def repeated(value, step, times):
    """A list of what `step`, which may take `value` from the memo, makes so many times."""
    return b"\x80\x02]" + value + MEMO + b"a" + (step + b"a") * times + b"."


def call(name, arguments=AGAIN + b"\x85"):
    module, attribute = name.rsplit(".", 1)
    return f"c{module}\n{attribute}\n".encode() + arguments + b"R"


def tensor(**changes):
    return tensor_program(**changes)[2:-1]


def colliding_entry(number):
    """Of a dict: a key whose hash is 0, and 0."""
    return b"\x8a\x0c" + ((2**61 - 1) * (number + 9)).to_bytes(12, "little") + b"K\x00"


def colliding_place(number):
    """Of the memo: an index whose hash is 0."""
    return b"Np%d\n0" % ((2**61 - 1) * (number + 9) * (-1) ** number)


PAIRS = op([(f"k{number}", 0) for number in range(1_000)])
BOMBS = {
    # device("a", "a") is "a:a": each call would make a text twice as long.
    "device": repeated(op("a"), call("torch.device", AGAIN + AGAIN + b"\x86") + MEMO, 40),
    "size": repeated(op([0] * 10_000), call("torch.Size"), 40_000),
    "encode": repeated(BYTES, call("_codecs.encode"), 8_000),
    "bytes": repeated(BYTES, call("__builtin__.bytes"), 8_000),
    "numpy states": repeated(STATE, ARRAY + AGAIN + b"b", 8_000),
    "ordered dicts": repeated(PAIRS, call("collections.OrderedDict"), 9_000),
    "namespaces": repeated(
        op({f"k{number}": 0 for number in range(1_000)}),
        b"cargparse\nNamespace\n)R" + AGAIN + b"b",
        9_000,
    ),
    "long integers": repeated(
        op(1), tensor(size=(2**2030,) * 60, stride=(2**2030,) * 60, offset=2**2030), 200
    ),
    "axes": repeated(op(1), tensor(size=(1,) * 65, stride=(1,) * 65), 200),
    "repeated elements": repeated(op(1), tensor(size=(2**26,), stride=(0,)), 200),
    "colliding places": b"\x80\x02" + b"".join(map(colliding_place, range(40_000))) + b"N.",
    "colliding keys": b"\x80\x02}(" + b"".join(map(colliding_entry, range(20_000))) + b"u.",
}


def refused_within_bounds(path):
    before = time.process_time()
    message = refusal(path)
    assert time.process_time() - before < 2
    tracemalloc.start()
    try:
        refusal(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40 * 2**20 + 10 * path.stat().st_size
    return message


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_a_small_file_builds_no_gigabytes(tmp_path, name, write):
    refused_within_bounds(write(tmp_path / "a.pth", BOMBS[name]))


def test_big_endian_copies_of_one_storage_are_counted(tmp_path):
    values = np.arange(250_000, dtype=">f4")
    program = repeated(op(1), tensor(numel=250_000, size=(250_000,), stride=(1,)), 800)
    path = write_zip(tmp_path / "a.pth", program, {"0": values.tobytes()}, byteorder="big")
    assert "many times its own size" in refused_within_bounds(path)


def test_storages_larger_than_a_file_of_the_old_format_are_refused(tmp_path):
    tensors = [tensor(key=str(number), numel=5_000) for number in range(100)]
    program = b"\x80\x02]" + b"".join(each + b"a" for each in tensors) + b"."
    path = write_legacy(tmp_path / "a.pth", program + bytes(10_000))
    assert "larger than the file" in refused_within_bounds(path)


def test_opcodes_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("vitdeblur_jax.checkpoints.pickle_values._LEAST_BUDGET", 0)
    path = write_zip(tmp_path / "a.pth", b"\x80\x02" + b"}" * 50_000 + b".")
    assert "many times its own size" in refused_within_bounds(path)


def test_what_training_programs_write_is_within_the_budget(tmp_path):
    weight = np.ones((300, 300), np.float32)
    contents = {
        "state_dict": {f"layer{number}": weight for number in range(20)},
        "losses": [0.5] * 9_000,
        "steps": list(range(9_000)),
    }
    write_pytorch_file(tmp_path / "a.pth", contents)
    assert_same(read_pytorch_file(tmp_path / "a.pth"), contents)
    shared = repeated(op(1), tensor(numel=250_000, size=(250_000,), stride=(1,)), 8)
    values = np.arange(250_000, dtype="<f4").tobytes()
    assert len(read_pytorch_file(write_zip(tmp_path / "b.pth", shared, {"0": values}))) == 9
