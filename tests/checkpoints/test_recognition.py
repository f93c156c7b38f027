"""Published files of all networks: which network they belong to, and how their names may vary."""

import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import save_file

from tests.published_networks import PEERS, entry_shapes, random_variables
from vitdeblur_jax import UserError, create, load_pretrained, save_pretrained
from vitdeblur_jax.checkpoints.pretrained import Pretrained
from vitdeblur_jax.checkpoints.pytorch_files import write_pytorch_file
from vitdeblur_jax.checkpoints.recognition import (
    published_of,
    recognized_network,
    variables_from_published,
)
from vitdeblur_jax.models import networks, rows
from vitdeblur_jax.models.networks import config_of, create_network, named_config


def published(name: str, shapes: str = "shapes") -> dict[str, np.ndarray]:
    """Returns arrays of zeros with the names and shapes of a published checkpoint."""
    stored = entry_shapes(PEERS / name / f"{shapes}.json")
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in stored.items()}


def renamed(state_dict, rename):
    return {rename(name): array for name, array in state_dict.items()}


def renumbered_by(offset):
    def rename(name):
        layer, _, weight = name.partition("/")
        number = int(layer.removeprefix("conv2d").removeprefix("_") or 0) + offset
        return f"conv2d_{number}/{weight}" if number else f"conv2d/{weight}"

    return rename


def ifanet_dual():
    """Returns what the published training saves: the network inside two others, and a second."""
    network = published("ifanet", "shapes_dual")
    other = {f"module.reblurNet.{name}": array for name, array in [*network.items()][:40]}
    return other | renamed(network, "module.Network.{}".format)


def aifnet():
    """Returns names without the number of the output, and what only the training needs."""
    state_dict = renamed(published("aifnet"), lambda name: name.removesuffix(":0"))
    return state_dict | {"discriminator/c1/kernel": np.zeros((3, 3), np.float32)}


FILES = {
    "aifnet": aifnet,
    "dpdnet": lambda: published("dpdnet", "shapes_dual"),
    "dpdnet_single": lambda: renamed(published("dpdnet"), renumbered_by(-1)),
    "drbnet": lambda: renamed(published("drbnet"), "module.{}".format),
    "drbnet_dual": lambda: published("drbnet", "shapes_dual"),
    "ifanet": lambda: published("ifanet"),
    "ifanet_dual": ifanet_dual,
    "kpac": lambda: published("kpac"),
    "kpac_3level": lambda: published("kpac", "shapes_3level"),
    "mdp": lambda: renamed(published("mdp"), renumbered_by(60)),
    "nrknet": lambda: published("nrknet"),
}
SLOWER_FILES = {
    "gkmnet": lambda: published("gkmnet"),
    "kpac_dual": lambda: published("kpac", "shapes_dual"),
    "restormer": lambda: published("restormer"),
    "restormer_dual": lambda: published("restormer", "shapes_dual"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_published_file_gets_its_network(name):
    assert config_of(recognized_network(FILES[name](), "a.pth")) == named_config(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOWER_FILES)
def test_a_published_file_of_a_deeper_network_gets_it(name):
    assert config_of(recognized_network(SLOWER_FILES[name](), "a.pth")) == named_config(name)


SHARED = {  # all entries, by names and shapes
    "gkmnet_running_statistics": "gkmnet",
    "mdp_dual": "mdp",
    "nrknet_image_statistics": "nrknet",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", networks.configuration_names())
def test_every_configuration_is_recognized_by_its_entries(name):
    shapes = published_of(create(name)).shapes(create(name))
    state_dict = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    found = config_of(recognized_network(state_dict, "a.pth"))
    assert found == named_config(SHARED.get(name, name))


def test_the_other_configuration_with_the_same_entries_is_chosen_by_name(tmp_path):
    write_pytorch_file(tmp_path / "a.pth", FILES["nrknet"]())
    assert not load_pretrained(tmp_path / "a.pth").model.image_statistics
    other = load_pretrained(tmp_path / "a.pth", "nrknet_image_statistics")
    assert other.model.image_statistics


def test_only_networks_whose_names_fit_are_traced(monkeypatch):
    monkeypatch.setattr(rows, "abstract_variables", lambda network: 1 / 0)
    shapes = [f"conv{i}.weight" for i in range(50)]
    with pytest.raises(UserError, match="has no entry of any network"):
        recognized_network({name: np.zeros(3, np.float32) for name in shapes}, "a.pth")
    with pytest.raises(ZeroDivisionError):
        recognized_network(published("kpac"), "a.npz")


def without(state_dict, *names):
    return {name: array for name, array in state_dict.items() if name not in names}


@pytest.mark.parametrize(
    ("state_dict", "expected"),
    [
        (
            without(published("drbnet"), "conv1_1.0.bias", "conv1_2.0.bias"),
            r"^a fits no network; the nearest is 'drbnet', but 2 entries differ: "
            r"conv1_1.0.bias is missing; conv1_2.0.bias is missing$",
        ),
        (
            published("drbnet") | {"conv1_1.0.bias": np.zeros(31, np.float32)},
            r"nearest is 'drbnet', but 1 entry differs: conv1_1.0.bias is \(31,\), should be",
        ),
        (
            published("kpac") | {"param_058": np.zeros(3, np.float32)},
            r"nearest is 'kpac', but 1 entry differs: param_058 has no place in it$",
        ),
        (without(published("kpac"), "param_057"), "nearest is 'kpac', .* param_057 is missing$"),
        ({}, "^a has no entry of any network .*; stored are none$"),
        (
            {f"{p}.{n}": x for p in ("ema", "net") for n, x in published("drbnet").items()},
            "holds the network twice, with the prefixes 'ema.' and 'net.'",
        ),
    ],
)
def test_an_unrecognized_file_names_the_nearest_network_and_the_differences(state_dict, expected):
    with pytest.raises(UserError, match=expected):
        recognized_network(state_dict, "a")


def test_surplus_entries_without_names_are_refused():
    state_dict = published("kpac") | {"param_058": np.zeros(3, np.float32)}
    with pytest.raises(UserError, match=r"does not fit the model: param_058 has no place in it"):
        variables_from_published(state_dict, create_network(named_config("kpac")), "a.npz")


def small_kpac():
    network = create("kpac", width=4, rates=(1, 2), attention_widths=(3, 2))
    return Pretrained(network, random_variables(network, (1, 16, 16, 3 * network.views)), "random")


def assert_same_variables(one, other):
    for path, array in flat(one).items():
        np.testing.assert_array_equal(array, flat(other)[path], err_msg=str(path))


def flat(pretrained):
    return traverse_util.flatten_dict(pretrained.variables)


def test_a_list_by_tensorlayer_is_loaded_and_saved_with_its_config(tmp_path):
    small = small_kpac()
    entries = published_of(small.model).to_state_dict(small.model, small.variables)
    params = np.empty(len(entries), object)
    params[:] = list(entries.values())
    np.savez(tmp_path / "a.npz", params=params)
    loaded = load_pretrained(tmp_path / "a.npz", small.model)
    assert_same_variables(loaded, small)
    save_pretrained(loaded, tmp_path / "b.safetensors")
    again = load_pretrained(tmp_path / "b.safetensors")
    assert again.model == small.model
    assert_same_variables(again, small)


def test_an_hdf5_file_by_keras_is_loaded(tmp_path):
    h5py = pytest.importorskip("h5py", reason="HDF5 files are read with the extra hdf5")
    network = create("dpdnet", widths=(4, 4, 4, 4, 4))
    small = Pretrained(network, random_variables(network, (1, 16, 16, 3 * network.views)), "random")
    entries = published_of(network).to_state_dict(network, small.variables)
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        model = file.create_group("model_weights")
        layers = list(dict.fromkeys(name.partition("/")[0] for name in entries))
        model.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer in layers:
            weights = [name for name in entries if name.startswith(f"{layer}/")]
            group = model.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in weights]
            for name in weights:
                group.create_dataset(name, data=entries[name])
    assert_same_variables(load_pretrained(tmp_path / "a.hdf5", network), small)


def test_surplus_entries_of_a_deeper_network_are_told(tmp_path, capsys):
    network = create("drbnet")
    shapes = published_of(network).shapes(network)
    state_dict = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    save_file(state_dict, tmp_path / "same.safetensors")
    load_pretrained(tmp_path / "same.safetensors")
    assert capsys.readouterr().err == ""
    deeper = {**state_dict, "conv5_1.0.weight": np.zeros((2, 2), np.float32)}
    save_file(deeper, tmp_path / "deeper.safetensors")
    load_pretrained(tmp_path / "deeper.safetensors")
    said = capsys.readouterr().err
    assert "deeper.safetensors: DRBNet does not use 1 entries: conv5_1.0.weight" in said
