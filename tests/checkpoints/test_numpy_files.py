import contextlib
import io
import pickle
import struct
import zipfile

import numpy as np
import pytest

from vitdeblur_jax.checkpoints.numpy_files import read_numpy_file
from vitdeblur_jax.utils.errors import UserError

ARRAYS = [
    np.random.default_rng(i).standard_normal(shape).astype(np.float32)
    for i, shape in enumerate([(3, 3, 2, 4), (4,), (1, 1, 4, 2)])
]
_NONE = b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"


def write(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def header(text):
    padded = text.encode() + b" " * (-(len(text) + 11) % 16) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded


def python2_array(shape, code, order, flags, data):
    """Returns opcodes as Python 2 writes them for an array: its bytes are a `str`."""
    sizes = b"".join(b"K" + bytes([n]) for n in shape)
    dtype = b"cnumpy\ndtype\n(U" + bytes([len(code)]) + code + b"K\x00K\x01tR"
    dtype += b"(K\x03U\x01" + order + _NONE + b"K" + bytes([flags]) + b"tb"
    new = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    return new + b"(K\x01(" + sizes + b"t" + dtype + b"\x89" + data + b"tb"


def python2_list(arrays):
    items = b"".join(
        python2_array(x.shape, b"f4", b"<", 0, b"T" + struct.pack("<i", x.nbytes) + x.tobytes())
        for x in arrays
    )
    outer = python2_array((len(arrays),), b"O8", b"|", 63, b"](" + items + b"e")
    return b"\x80\x02" + outer + b"."


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_arrays_with_names(tmp_path):
    arrays = {
        "net/conv/kernel:0": ARRAYS[0],
        "fortran": np.asfortranarray(ARRAYS[0]),
        "n": ARRAYS[1],
    }
    arrays["integers"] = np.arange(3)
    np.savez(tmp_path / "a.npz", **arrays)
    assert_same(read_numpy_file(tmp_path / "a.npz"), arrays)


def positions(arrays):
    return {f"param_{i:03d}": array for i, array in enumerate(arrays)}


def test_a_list_without_names(tmp_path):
    array = np.empty(len(ARRAYS), object)
    array[:] = ARRAYS
    np.savez(tmp_path / "a.npz", params=array)
    assert_same(read_numpy_file(tmp_path / "a.npz"), positions(ARRAYS))


def test_a_list_by_python_2(tmp_path):
    program = python2_list(ARRAYS)
    theirs = pickle.loads(program, encoding="latin1")
    assert_same(positions(theirs), positions(ARRAYS))
    head = header("{'descr': '|O', 'fortran_order': False, 'shape': (3L,), }")
    path = write(tmp_path / "a.npz", {"params.npy": head + program})
    assert_same(read_numpy_file(path), positions(ARRAYS))


def objects(program):
    return header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }") + program


class Call:
    def __reduce__(self):
        return print, ("run",)


def npy(array):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array)
    return stream.getvalue()


HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            {"params.npy": objects(pickle.dumps(np.array([Call()]), 2))},
            "not data and was not executed",
        ),
        ({"params.npy": objects(pickle.dumps(np.array([None]), 2))}, "dtype 'O8'"),
        ({"params.npy": objects(pickle.dumps({"a": 1}, 2))}, "array of objects that is not a list"),
        ({"other.npy": objects(python2_list(ARRAYS))}, "'other' is an array of objects"),
        ({"params.npy": objects(python2_list(ARRAYS)[:-9])}, "damaged"),
        ({"a.npy": header(HUGE) + b"1234"}, "damaged"),
        ({"a.npy": npy(np.array(["text"]))}, "dtype <U4"),
        ({"data.pkl": b"x"}, "not by NumPy"),
        ({"a.npy": b"x"}, "damaged"),
    ],
)
def test_other_files_are_refused(tmp_path, members, message, capsys):
    path = write(tmp_path / "a.npz", members)
    with pytest.raises(UserError, match=message) as refusal:
        read_numpy_file(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not capsys.readouterr().out


def test_a_small_file_cannot_fill_the_memory(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", npy(np.zeros(2**23, np.float32)))
    with pytest.raises(UserError, match="many times its own size"):
        read_numpy_file(tmp_path / "a.npz")


def test_missing_files_and_other_formats(tmp_path):
    with pytest.raises(UserError, match=r"none\.npz"):
        read_numpy_file(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(UserError, match="not a NumPy archive"):
        read_numpy_file(tmp_path / "text.npz")


@pytest.mark.parametrize("flip", [0x01, 0x80])
def test_a_changed_byte_raises_only_user_errors(tmp_path, flip):
    stream = io.BytesIO()
    np.savez_compressed(stream, named=ARRAYS[1])
    head = header("{'descr': '|O', 'fortran_order': False, 'shape': (1L,), }")
    write(tmp_path / "list.npz", {"params.npy": head + python2_list(ARRAYS[1:2])})
    for good in (stream.getvalue(), (tmp_path / "list.npz").read_bytes()):
        for i in range(len(good)):
            bad = good[:i] + bytes([good[i] ^ flip]) + good[i + 1 :]
            (tmp_path / "bad.npz").write_bytes(bad)
            with contextlib.suppress(UserError):
                read_numpy_file(tmp_path / "bad.npz")
