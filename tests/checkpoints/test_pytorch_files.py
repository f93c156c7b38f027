"""The reader against files of PyTorch itself and hostile ones; the writer against stock Python.

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

import argparse
import copy
import errno
import io
import os
import pickle
import resource
import struct
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from vitdeblur_jax.checkpoints.pytorch_files import read_pytorch_file, write_pytorch_file
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


# ---------------------------------------------------------------- files written by PyTorch


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


# ---------------------------------------------------------------- hostile files


class Call:
    """Pickles as a call of ``function``, which the stock unpickler would make."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def programs(marker):
    """Pickles that would create ``marker``, by name."""
    touch = f"open({str(marker)!r}, 'w').close()"
    shell = f"touch '{marker}'"
    old = op(shell)
    array = np.array([Call(os.system, shell)], dtype=object)
    return {
        "system": pickle.dumps(Call(os.system, shell), 2),
        "system, protocol 4": pickle.dumps(Call(os.system, shell), 4),
        "eval": pickle.dumps({"model": Call(eval, touch)}, 2),
        "exec": pickle.dumps([Call(exec, touch)], 2),
        "open": pickle.dumps((Call(open, str(marker), "w"),), 2),
        "getattr": pickle.dumps(Call(getattr, Call(__import__, "os"), "system"), 2)[:-1]
        + (old + b"\x85R."),
        "old-style instance": b"\x80\x02(" + old + b"iposix\nsystem\n.",
        "object": b"\x80\x02(cposix\nsystem\n" + old + b"o.",
        "new object": b"\x80\x02cposix\nsystem\n" + old + b"\x85\x81.",
        "in a tensor": b"\x80\x02ctorch._utils\n_rebuild_parameter\ncposix\nsystem\n"
        + (old + b"\x85R\x89N\x87R."),
        "state of an object": pickle.dumps(Call(os.system, shell), 2)[:-1] + b"}b.",
        "object array": pickle.dumps(array, 2),
        "key of a dict": b"\x80\x02}cposix\nsystem\n" + old + b"\x85RNs.",
    }


NAMES = list(programs("marker"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_hostile_pickles_do_not_run(tmp_path, name, write):
    marker = tmp_path / "ran"
    refusal(write(tmp_path / "evil.pth", programs(marker)[name]))
    assert not marker.exists()


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("in a tensor", "new object")])
def test_the_stock_unpickler_would_have_run_them(tmp_path, name):
    """Checks that the attacks of the test above work."""
    marker = tmp_path / "ran"
    try:
        made = pickle.loads(programs(marker)[name])
    except Exception:  # the attack may end in an error of its own once it has run
        made = None
    for file in made if isinstance(made, tuple) else ():
        file.close()
    assert marker.exists()


def test_the_memory_of_a_storage_is_not_accessible(tmp_path):
    # _rebuild_parameter called with the storage itself for its arguments, then given a state that
    # would free the memory of the tensors made before.
    storage = b"(" + op("storage") + b"ctorch\nFloatStorage\n" + op("0") + op("cpu") + op(6) + b"tQ"
    state = b"(K\x01)cnumpy\ndtype\n(" + op("u1") + b"\x89\x88tR\x89" + op(b"") + b"tb"
    program = b"\x80\x02ctorch._utils\n_rebuild_parameter\n" + storage + b"R" + state + b"."
    for write in (write_zip, write_legacy):
        assert "tuple" in refusal(write(tmp_path / "evil.pth", program))


@pytest.mark.parametrize("name", [b"ctorch\nSize\n", b"ccollections\nOrderedDict\n"])
def test_a_tensor_is_not_accepted_as_a_tuple(tmp_path, name):
    # A stride of 0 repeats one element as often as the file likes.
    tensor = tensor_program(size=(2**20,), stride=(0,))[2:-1]
    for arguments in (tensor, tensor + b"\x85"):
        path = write_zip(tmp_path / "evil.pth", b"\x80\x02" + name + arguments + b"R.")
        assert "tuple" in refusal(path)


def test_entries_that_share_their_bytes_are_refused(tmp_path):
    path = write_zip(tmp_path / "a.pth", tensor_program(), {"0": bytes(24), "1": bytes(5000)})
    with zipfile.ZipFile(path, "a") as archive:
        once = archive.getinfo("model/data/1")
        for key in "23":
            again = copy.copy(once)
            again.filename = f"model/data/{key}"
            archive.filelist.append(again)
        archive._didModify = True
    assert "larger than the file" in refusal(path)


def test_a_bare_pickle_is_refused_and_not_executed(tmp_path):
    path = tmp_path / "evil.pth"
    path.write_bytes(programs(tmp_path / "ran")["system"])
    assert "system" in refusal(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name",
    [
        *("os.system", "builtins.eval", "torch.nn.modules.linear.Linear", "torch.jit._unpickler.x"),
        *("numpy.load", "torch.load", "functools.partial", "torch.FloatStorage.from_file"),
        *("copyreg._reconstructor", "torch._utils._rebuild_tensor_v2.__globals__"),
    ],
)
def test_the_refused_name_is_in_the_error(tmp_path, name):
    module, _, attribute = name.rpartition(".")
    program = b"\x80\x02c" + f"{module}\n{attribute}\n".encode() + b")R."
    message = refusal(write_zip(tmp_path / "a.pth", program))
    assert repr(name) in message
    assert "state_dict" in message


@pytest.mark.parametrize(
    "program",
    [
        op("os.system") + op(("true",)) + b"R",  # a plain string is no function
        b"ctorch\nFloatStorage\n)R",
        b"cnumpy\nndarray\n)\x81",
        b"c__builtin__\nbytes\n" + op((2**40,)) + b"R",
        b"c_codecs\nencode\n" + op(("a", "zlib")) + b"R",
        b"ccollections\nOrderedDict\n" + op(3) + b"b",
        op([1]) + op({"append": 2}) + b"b",
        op("text") + op({"x": 2}) + b"b",
        op([]) + op(1) + op(2) + b"\x86}b",
        op("a") + op("b") + b"a",
        b"h\x05",
        b"t",
        b"R",
        b"\x82\x01",  # the extension registry
        b"Pstorage\n",
    ],
)
def test_odd_programs(tmp_path, program):
    refusal(write_zip(tmp_path / "a.pth", b"\x80\x02" + program + b"."))


def test_a_state_changes_no_function_and_no_attribute(tmp_path):
    """`BUILD` on what stands for a function or a container must not reach Python objects."""
    program = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + op({"__defaults__": ()}) + b"b."
    refusal(write_zip(tmp_path / "a.pth", program))
    state = op({"__class__": "x", "items": 5})
    program = b"\x80\x02ccollections\nOrderedDict\n)R" + state + b"b."
    contents = read_pytorch_file(write_zip(tmp_path / "b.pth", program))
    assert_same(contents, OrderedDict())
    assert vars(contents) == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"numel": 7},
        {"numel": 5},
        {"numel": 2**62},
        {"numel": -1},
        {"numel": 6.0},
        {"offset": 1},
        {"offset": -1},
        {"offset": 2**63},
        {"size": (2, 4)},
        {"size": (3, 3)},
        {"size": (-2, 3)},
        {"size": (-2, -3)},
        {"size": (2**40, 2**40), "stride": (0, 0)},
        {"size": (2**31,), "stride": (0,)},
        {"size": (2**70,), "stride": (1,)},
        {"size": (0, 2**62, 2**62), "stride": (1, 1, 1)},
        {"size": (2.0, 3)},
        {"size": ("2", 3)},
        {"size": (2,)},
        {"size": None},
        {"size": (1,) * 100, "stride": (1,) * 100},
        {"stride": (4, 1)},
        {"stride": (-3, 1)},
        {"stride": (2**63, 1)},
        {"stride": (3, -1), "offset": 2},
        {"kind": b"torch\nLongStorage"},
        {"kind": b"torch\nSize"},
        {"kind": b"torch\nfloat32"},
        {"key": "1"},
        {"key": "../data.pkl"},
        {"key": 0},
        {"identity": ("module", "torch.FloatStorage", "0", "cpu", 6)},
        {"identity": ("storage", "torch.FloatStorage", "0", "cpu", 6, ("0", 0, 6))},
        {"identity": ("storage", "torch.FloatStorage")},
        {"identity": "storage"},
        {"identity": None, "kind": b"numpy\nndarray"},
    ],
)
def test_a_tensor_outside_its_storage_is_refused(tmp_path, changes):
    refusal(write_zip(tmp_path / "a.pth", tensor_program(**changes)))


def test_the_tensor_that_the_cases_above_change_is_read(tmp_path):
    path = write_zip(tmp_path / "a.pth", tensor_program())
    assert_same(read_pytorch_file(path), np.arange(6, dtype=np.float32).reshape(2, 3))


@pytest.mark.parametrize("numel", [6, 2**40, 2**62])
def test_legacy_storages_larger_than_the_file_are_refused(tmp_path, numel):
    program = tensor_program(numel=numel) + pickle.dumps(["0"], 2) + struct.pack("<q", numel)
    refusal(write_legacy(tmp_path / "a.pth", program))


@pytest.mark.parametrize("keys", [[], ["1"], ["0", "0"], [()], 3])
def test_legacy_list_of_storages_must_match(tmp_path, keys):
    storage = struct.pack("<q6f", 6, *range(6))
    program = tensor_program() + pickle.dumps(keys, 2) + storage
    refusal(write_legacy(tmp_path / "a.pth", program))
    program = tensor_program() + pickle.dumps(["0"], 2) + storage
    path = write_legacy(tmp_path / "b.pth", program)
    assert_same(read_pytorch_file(path), np.arange(6, dtype=np.float32).reshape(2, 3))


@pytest.mark.parametrize(
    "value",
    [
        np.array([None]),
        np.array([{"a": 1}], object),
        np.zeros(2, "f4,i4"),
        np.zeros(2, "f4,O")[0],
        np.array(["text"]),
        np.str_("text"),
        np.zeros(1, "V8"),
        np.zeros(1, "M8[s]"),
        np.complex64(1),
    ],
)
def test_numpy_values_other_than_numbers_are_refused(tmp_path, value):
    assert "NumPy array of dtype" in refusal(write_zip(tmp_path / "a.pth", pickle.dumps(value, 2)))


@pytest.mark.parametrize("shape", [(-1, -6), (2, 4), (2**62, 8), (6, -2), ("6",)])
def test_numpy_arrays_of_a_false_shape_are_refused(tmp_path, shape):
    good = pickle.dumps(np.arange(6, dtype=np.int8).reshape(2, 3), 2)
    assert good.count(op((2, 3))[:5]) == 1
    start = good.index(op((2, 3))[:5])
    bad = good[:start] + op(shape) + good[start + 5 :]
    refusal(write_zip(tmp_path / "a.pth", bad))


def test_tuples_within_tuples_do_not_overflow_the_stack(tmp_path):
    program = b"\x80\x02})" + b"\x85" * 200_000 + b"Ns."
    assert "tuple" in refusal(write_zip(tmp_path / "a.pth", program))


def test_a_huge_index_of_the_memo_takes_no_memory(tmp_path):
    program = b"\x80\x02" + op(5) + b"r\xff\xff\xff\x7f."
    assert read_pytorch_file(write_zip(tmp_path / "a.pth", program)) == 5


# ---------------------------------------------------------------- damaged and other files


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


# ---------------------------------------------------------------- writing


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
