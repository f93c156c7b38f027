"""No code in a PyTorch file is executed; a file that claims too much is refused."""

import copy
import os
import pickle
import struct
import zipfile
from collections import OrderedDict

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
from vitdeblur_jax.checkpoints.pytorch_files import read_pytorch_file


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
