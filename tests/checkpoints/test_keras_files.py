import os
import sys

import jax
import numpy as np
import pytest

from tests.fuzzing import watched
from tests.published_networks import PEERS, entry_shapes
from vitdeblur_jax.checkpoints.keras_files import read_keras_file, renumbered
from vitdeblur_jax.models import dpdnet, mdp
from vitdeblur_jax.utils.errors import UserError

LAYERS = {"input_1": [], "conv2d_7": [(2, 2, 3, 4), (4,)], "pool": [], "conv2d_3": [(1, 1, 4, 2)]}
ENDINGS = ("kernel:0", "bias:0")


@pytest.fixture
def h5py():
    return pytest.importorskip("h5py", reason="HDF5 files are read with the extra hdf5")


def write_weights(group, split=False):
    """Writes layers as Keras does, below a group; returns the arrays by name."""
    rng, arrays = np.random.default_rng(0), {}
    for layer, shapes in LAYERS.items():
        below = group.create_group(layer)
        names = [f"{layer}/{end}" for end, _ in zip(ENDINGS, shapes, strict=False)]
        below.attrs["weight_names"] = [name.encode() for name in names]
        for name, shape in zip(names, shapes, strict=True):
            arrays[name] = rng.standard_normal(shape, np.float32)
            below.create_dataset(name, data=arrays[name])
    names = [layer.encode() for layer in LAYERS]
    if split:
        group.attrs["layer_names0"], group.attrs["layer_names1"] = names[:2], names[2:]
    else:
        group.attrs["layer_names"] = names
    return arrays


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.hdf5"


@pytest.mark.parametrize("split", [False, True])
def test_whole_models_and_weights_alone(h5py, path, split):
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = b'{"class_name": "Lambda"}'
        expected = write_weights(file.create_group("model_weights"), split)
        file.create_group("optimizer_weights").create_dataset("Adam/m:0", data=np.zeros(3, "f4"))
    whole = read_keras_file(path)
    with h5py.File(path, "w") as file:
        write_weights(file, split)
    for arrays in (whole, read_keras_file(path)):
        assert list(arrays) == list(expected)
        jax.tree.map(np.testing.assert_array_equal, arrays, expected)


def _external_link(h5py, group):
    del group["conv2d_7"]
    group["conv2d_7"] = h5py.ExternalLink("other.hdf5", "/conv2d_7")


def _soft_link(h5py, group):
    del group["conv2d_7/conv2d_7/kernel:0"]
    group["conv2d_7/conv2d_7/kernel:0"] = h5py.SoftLink("/conv2d_3/conv2d_3/kernel:0")


def _missing(h5py, group):
    del group["conv2d_7/conv2d_7/bias:0"]


def _no_names(h5py, group):
    del group.attrs["layer_names"]


def _twice(h5py, group):
    group.attrs["layer_names"] = [b"conv2d_7", b"conv2d_7"]


def _replaced(**dataset):
    def spoil(h5py, group):
        del group["conv2d_7/conv2d_7/bias:0"]
        group["conv2d_7"].create_dataset("conv2d_7/bias:0", **dataset)

    return spoil


def _inside_an_array(h5py, group):
    group["conv2d_7"].attrs["weight_names"] = [b"conv2d_7/bias:0/deeper"]


def _names_that_are_no_text(h5py, group):
    group["conv2d_7"].attrs["weight_names"] = [b"\xff\xfe"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_external_link, "has a link in place of 'conv2d_7'"),
        (_soft_link, "has a link in place of 'conv2d_7/kernel:0'"),
        (_missing, "lacks 'conv2d_7/bias:0'"),
        (_inside_an_array, "lacks 'conv2d_7/bias:0/deeper'"),
        (_no_names, "no layer_names"),
        (_twice, "two weights named 'conv2d_7/kernel:0'"),
        (_names_that_are_no_text, "not utf-8 text"),
        (_replaced(data="text"), "not an array of floating-point"),
        (_replaced(data=np.zeros(9, "f4"), compression="gzip"), "compressed"),
        (_replaced(shape=(3,), dtype="f4", external=[("x.bin", 0, 12)]), "in another file"),
        (_replaced(shape=(1 << 40,), dtype="f4"), "larger than the file"),
    ],
)
def test_files_that_reach_outside_or_lack_something(h5py, path, spoil, message):
    with h5py.File(path, "w") as file:
        write_weights(file)
        spoil(h5py, file)
    with watched(), pytest.raises(UserError, match=message) as caught:
        read_keras_file(path)
    assert str(path) in str(caught.value)


def test_damaged_files(h5py, path):
    with h5py.File(path, "w") as file:
        write_weights(file.create_group("model_weights"))
    sound = path.read_bytes()
    for data in (b"", b"not HDF5", sound[:100], sound[: len(sound) // 2]):
        path.write_bytes(data)
        with pytest.raises(UserError, match="damaged, or not an HDF5 file"):
            read_keras_file(path)


def test_without_h5py(path, monkeypatch):
    path.touch()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r"needs h5py: pip install 'vitdeblur_jax\[hdf5\]'"):
        read_keras_file(path)


def test_missing_files_and_pipes(path):
    with pytest.raises(UserError, match="No such file"):
        read_keras_file(path)
    os.mkfifo(path)
    with pytest.raises(UserError, match="not a regular file"):
        read_keras_file(path)


@pytest.mark.parametrize("offset", [0, 1, 24])
@pytest.mark.parametrize(("folder", "network"), [("dpdnet", dpdnet.DPDNet()), ("mdp", mdp.MDP())])
def test_layers_are_numbered_as_in_a_fresh_process(folder, network, offset):
    module = {"dpdnet": dpdnet, "mdp": mdp}[folder]
    wanted = [entry.name for entry in module.published_entries(network).values()]
    stored = {}
    for i, name in reversed(list(enumerate(entry_shapes(PEERS / folder / "shapes.json")))):
        number = i // 2 + offset
        stored[f"conv2d{f'_{number}' * bool(number)}/{ENDINGS[i % 2]}"] = name
    found = renumbered({name: np.array(expected) for name, expected in stored.items()}, wanted)
    assert {name: str(expected) for name, expected in found.items()} == {x: x for x in wanted}


def test_other_layers_keep_their_numbers():
    arrays = {name: np.zeros(1) for name in ("conv2d_3/kernel:0", "conv2d_04/a", "dense/bias:0")}
    assert list(renumbered(arrays, ["conv2d/kernel:0", "conv2d_1/kernel:0"])) == list(arrays)
