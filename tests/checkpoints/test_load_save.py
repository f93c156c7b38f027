import dataclasses
import json
import os
import pickle
import shutil
import zipfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import flax.linen as nn
import jax
import ml_dtypes
import numpy as np
import optax
import pytest
from flax import traverse_util
from safetensors import safe_open
from safetensors.numpy import save_file

from tests.forked import run_program
from tests.small_model import random_variables, small_configuration, small_pretrained
from vitdeblur_jax import (
    Pretrained,
    UserError,
    ViTDeblur,
    load_pretrained,
    save_pretrained,
)
from vitdeblur_jax.checkpoints import load_save as checkpoints
from vitdeblur_jax.checkpoints.load_save import convert
from vitdeblur_jax.checkpoints.orbax_folders import write_folder
from vitdeblur_jax.checkpoints.pretrained import config_to_json, digest
from vitdeblur_jax.checkpoints.pytorch_files import read_pytorch_file, write_pytorch_file
from vitdeblur_jax.checkpoints.recognition import published_of, read_entries, recognized_network
from vitdeblur_jax.models.networks import config_of, create_network, named_config
from vitdeblur_jax.models.vitdeblur.decoder import tokens_to_map
from vitdeblur_jax.models.vitdeblur.published import to_published
from vitdeblur_jax.training.checkpointing import TrainingCheckpoints
from vitdeblur_jax.training.state import create_state

NAMES = ["folder", "weights.safetensors", "weights.pth", "weights.pth.tar"]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved_is_loaded(small, tmp_path, name):
    save_pretrained(small, tmp_path / name)
    loaded = load_pretrained(tmp_path / name)
    assert loaded.config == small.config
    assert loaded.model == small.model
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded.variables))
    for one, other in zip(*map(jax.tree.leaves, (loaded.variables, small.variables)), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-7, atol=1e-6)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", NAMES)
def test_saving_again_replaces(small, tmp_path, name):
    other = small_pretrained(seed=1)
    save_pretrained(small, tmp_path / name)
    with pytest.raises(UserError, match="exists; overwrite=True replaces it"):
        save_pretrained(other, tmp_path / name)
    save_pretrained(other, tmp_path / name, overwrite=True)
    loaded = load_pretrained(tmp_path / name)
    bias = [x.variables["params"]["decoder"]["norm"]["bias"] for x in (loaded, other)]
    np.testing.assert_array_equal(*bias)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", NAMES)
def test_a_failed_save_leaves_the_earlier_one(small, tmp_path, name, monkeypatch):
    save_pretrained(small, tmp_path / name)

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    for module, function in (("os", "fsync"), ("vitdeblur_jax.utils.files", "_put_in_place")):
        monkeypatch.setattr(f"{module}.{function}", fail)
    with pytest.raises(UserError, match="cannot be written"):
        save_pretrained(small_pretrained(seed=1), tmp_path / name, overwrite=True)
    monkeypatch.undo()
    bias = load_pretrained(tmp_path / name).variables["params"]["decoder"]["norm"]["bias"]
    np.testing.assert_array_equal(bias, small.variables["params"]["decoder"]["norm"]["bias"])
    assert os.listdir(tmp_path) == [name]


def test_convert_round_trip_and_unused_entries(small, tmp_path):
    state_dict = to_published(small.model, small.variables)
    state_dict["decoder.decoder_dnorm2.weight"][:] = 7
    config = config_to_json(small.model)
    write_pytorch_file(tmp_path / "a.pth", {"state_dict": state_dict, "config": config})
    unused = checkpoints.convert(tmp_path / "a.pth", tmp_path / "b.safetensors", False)
    assert "decoder.decoder_dnorm2.weight" in unused
    checkpoints.convert(tmp_path / "b.safetensors", tmp_path / "c.pth", False)
    again = read_pytorch_file(tmp_path / "c.pth")["state_dict"]
    shapes, given = ({n: np.shape(v) for n, v in d.items()} for d in (again, state_dict))
    assert shapes == given
    np.testing.assert_array_equal(again["decoder.decoder_dnorm2.weight"], 7)
    with pytest.raises(UserError, match="exists; --force"):
        checkpoints.convert(tmp_path / "a.pth", tmp_path / "b.safetensors", False)


@pytest.mark.parametrize("key", ["state_dict", "model", None])
def test_the_state_dict_is_found_and_half_precision_becomes_float32(small, tmp_path, key):
    state_dict = to_published(small.model, small.variables)
    half = {name: value.astype(ml_dtypes.bfloat16) for name, value in state_dict.items()}
    write_pytorch_file(tmp_path / "a.pth", half if key is None else {"epoch": 3, key: half})
    loaded = load_pretrained(tmp_path / "a.pth", small.config)
    for one, other in zip(*map(jax.tree.leaves, (loaded.variables, small.variables)), strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", ["base", "light"])
def test_a_file_without_a_configuration_gets_the_one_that_fits(name):
    network = create_network(named_config(name))
    shapes = published_of(network).shapes(network)
    state_dict = {f"module.{n}": np.broadcast_to(np.float32(0), s) for n, s in shapes.items()}
    assert config_of(recognized_network(state_dict, "a.pth")) == named_config(name)


def test_a_file_that_fits_no_configuration_is_compared_with_the_nearest(small, tmp_path):
    save_file(to_published(small.model, small.variables), tmp_path / "a.safetensors")
    message = r"a.safetensors fits no network; the nearest is 'tiny', but \d+ entries differ"
    with pytest.raises(UserError, match=message):
        load_pretrained(tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("changes", [{"decoder__width": 96}, {"decoder__num_heads": 8}])
def test_another_network_is_refused(small, tmp_path, name, changes):
    save_pretrained(small, tmp_path / name)
    with pytest.raises(UserError, match=r"of another network: its model.decoder\..*, and yours is"):
        load_pretrained(tmp_path / name, small_configuration(**changes))


@pytest.mark.parametrize("name", NAMES)
def test_other_numerics_are_accepted(small, tmp_path, name):
    save_pretrained(small, tmp_path / name)
    config = small_configuration(dtype="bfloat16", window=46, remat=True, views=2)
    assert load_pretrained(tmp_path / name, config).config == config


def test_dtype_and_precision_replace_those_of_the_checkpoint(small, tmp_path):
    save_pretrained(small, tmp_path / "small.safetensors")
    saved = load_pretrained(tmp_path / "small.safetensors").config.numerics.to_dict()
    changes = {"dtype": "bfloat16", "precision": "high"}
    changed = load_pretrained(tmp_path / "small.safetensors", **changes)
    assert changed.config.numerics.to_dict() == {**saved, **changes}
    with pytest.raises(UserError, match=r"dtype is 'bfloat15' .* one of float32, bfloat16"):
        load_pretrained(tmp_path / "small.safetensors", dtype="bfloat15")


def test_a_folder_whose_arrays_do_not_fit_its_config(small, tmp_path):
    config = small_configuration(decoder__width=96).to_dict()
    write_folder(tmp_path / "folder", small.variables, config, overwrite=False)
    with pytest.raises(UserError, match=r"does not fit the model \(\d+ entries\): .*should be"):
        load_pretrained(tmp_path / "folder")


@pytest.mark.parametrize("name", NAMES)
def test_variables_that_do_not_fit_are_not_written(small, tmp_path, name):
    wrong = dataclasses.replace(small, model=small_pretrained(decoder__width=96).model)
    with pytest.raises(UserError, match="the variables to write does not fit the model"):
        save_pretrained(wrong, tmp_path / name)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["a", "a.safetensors"])
def test_a_mean_in_float64_is_saved_as_float32(small, tmp_path, name):
    mean = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), small.variables)
    save_pretrained(dataclasses.replace(small, variables=mean), tmp_path / name)
    loaded = load_pretrained(tmp_path / name).variables
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), loaded, small.variables)
    whole = jax.tree.map(lambda leaf: np.asarray(leaf, np.int32), small.variables)
    with pytest.raises(UserError, match="is int32, and must be float32"):
        save_pretrained(dataclasses.replace(small, variables=whole), tmp_path / f"b{name}")


@pytest.mark.parametrize("config", ["configs/deblur.yml", "{'lr': 0.1}", '{"model": "deblur"}'])
def test_a_config_of_another_program_is_ignored(small, tmp_path, config):
    state_dict = to_published(small.model, small.variables)
    write_pytorch_file(tmp_path / "a.pth", {"state_dict": state_dict, "config": config})
    loaded = load_pretrained(tmp_path / "a.pth", small.config).variables
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), loaded, small.variables)


def test_code_in_a_hostile_file_is_not_executed(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"state_dict": Hostile()}, 2))
    with pytest.raises(UserError, match="system"):
        load_pretrained(tmp_path / "a.pth")
    assert not (tmp_path / "ran").exists()


def test_other_files_are_refused_in_one_line(tmp_path):
    (tmp_path / "empty.pth").touch()
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "folder").mkdir()
    write_pytorch_file(tmp_path / "list.pth", [1, 2])
    save_file({"a": np.zeros(3)}, tmp_path / "b.safetensors", {"config": "{broken"})
    for name in os.listdir(tmp_path):
        with pytest.raises(UserError) as refusal:
            load_pretrained(tmp_path / name)
        assert name in str(refusal.value)
        assert "\n" not in str(refusal.value)


def test_without_a_name_the_bundled_weights_are_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("demo").mkdir()  # is named by nobody
    pretrained = load_pretrained()
    path = Path(pretrained.source)
    assert path == checkpoints.BUNDLED_WEIGHTS / "demo.safetensors"
    assert path.stat().st_size < 10e6
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    assert json.loads(metadata["config"]) == json.loads(config_to_json(pretrained.model))
    assert metadata.keys() == {"config", "recipe", "recipe_sha256", "step", "licence"}
    with pytest.raises(UserError, match="demo is not a checkpoint folder"):
        load_pretrained("demo")


def test_half_precision_is_half_as_large_and_rounds(small, tmp_path):
    save_pretrained(small, tmp_path / "whole.safetensors")
    convert(tmp_path / "whole.safetensors", tmp_path / "half.safetensors", False, half=True)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    loaded = load_pretrained(tmp_path / "half.safetensors").variables

    def compare(half, whole):
        assert half.dtype == np.float32
        np.testing.assert_allclose(half, whole, rtol=1e-3, atol=1e-3)
        assert not whole.any() or np.any(half != whole)

    jax.tree.map(compare, *jax.device_get((loaded, small.variables)))
    counter = {"projector.1.num_batches_tracked": np.array(120_000)}  # integers stay as they are
    counted = dataclasses.replace(small, unused=counter)
    save_pretrained(counted, tmp_path / "counted.safetensors", half=True)
    with pytest.raises(UserError, match=r"a.pth: only .safetensors is written in half precision"):
        save_pretrained(small, tmp_path / "a.pth", half=True)
    huge = jax.tree.map(lambda leaf: np.float32(1e6) * np.asarray(leaf), small.variables)
    with pytest.raises(UserError, match="has values too large for half precision"):
        save_pretrained(
            dataclasses.replace(small, variables=huge), tmp_path / "b.safetensors", half=True
        )
    assert not (tmp_path / "b.safetensors").exists()


def test_an_unknown_name_lists_the_bundled_weights(tmp_path, small, monkeypatch):
    monkeypatch.setattr(checkpoints, "BUNDLED_WEIGHTS", tmp_path)
    save_pretrained(small, tmp_path / "demo.safetensors")
    with pytest.raises(UserError, match="come with the package: demo"):
        load_pretrained("nothing")
    assert load_pretrained("demo").config == small.config


def test_a_missing_step_lists_the_steps(tmp_path):
    for step in (280, 300):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    with pytest.raises(UserError, match=r"/301'; \S+/checkpoints has the steps 280, 300$"):
        load_pretrained(tmp_path / "checkpoints" / "301")
    with pytest.raises(UserError, match=r"no checkpoint 'x.safetensors': no such file or folder$"):
        load_pretrained("x.safetensors")


def test_an_unknown_ending_is_refused(small, tmp_path):
    with pytest.raises(UserError, match=r"\.onnx.*safetensors"):
        save_pretrained(small, tmp_path / "a.onnx")


def test_the_digest_depends_on_the_values(small, small_folder):
    expected = digest(small.variables)
    assert digest(load_pretrained(small_folder).variables) == expected
    changed = jax.tree.map(lambda leaf: leaf, small.variables)
    bias = changed["params"]["decoder"]["norm"]["bias"]
    changed["params"]["decoder"]["norm"]["bias"] = bias.at[0].add(1e-6)
    assert digest(changed) != expected


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_a_pretrained_encoder_is_read_by_the_same_reader(small, tmp_path, key):
    other = small_pretrained(seed=1)
    prefix = "primary_encoder.pretrain_mae."
    state_dict = to_published(other.model, other.variables)
    # As MAE's: RGB, so the kernel that our tokenizer holds itself.
    kernel = other.variables["params"]["tokenizer"]["patch_embedding"]["kernel"]
    state_dict[f"{prefix}patch_embed.proj.weight"] = np.asarray(kernel).transpose(3, 2, 0, 1)
    encoder = {n.removeprefix(prefix): v for n, v in state_dict.items() if n.startswith(prefix)}
    write_pytorch_file(tmp_path / "mae.pth", {key: encoder, "epoch": 1600})
    read = small.model.initial_files
    new = read({"encoder": str(tmp_path / "mae.pth")}, read_entries)
    for path, value in traverse_util.flatten_dict(other.variables).items():
        if path[1] == "primary_encoder" or path[2:] == ("patch_embedding", "kernel"):
            np.testing.assert_array_equal(new[path], value)
    with pytest.raises(UserError, match="no file"):
        read({"encoder": str(tmp_path / "nothing.pth")}, read_entries)


def test_a_name_that_cannot_be_written_is_refused_before_anything_is_loaded(small, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for name, told in [
        ("a.onnx", "safetensors"),
        ("nothing/a.pth", "no folder"),
        ("nothing/a", "no folder"),
        ("file", "exists and is a file"),
        ("n" * 300 + ".pth", "no checkpoint"),
    ]:
        with pytest.raises(UserError, match=told):
            checkpoints.convert("no such checkpoint", tmp_path / name, overwrite=True)


def test_a_folder_is_restored_on_other_devices(small, tmp_path):
    program = """
import sys
import jax
from tests.small_model import small_pretrained
from vitdeblur_jax.checkpoints import load_save as checkpoints
from vitdeblur_jax.checkpoints.pretrained import on_local_devices
assert jax.device_count() == 4
spread = on_local_devices(small_pretrained())
checkpoints.save_pretrained(spread, sys.argv[1])
"""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    ended = run_program(["-c", program, tmp_path / "folder"], tmp_path, **flags)
    assert ended.returncode == 0, ended.stderr
    loaded = load_pretrained(tmp_path / "folder")
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, small.variables)


def test_a_damaged_folder_is_an_error(small_folder, tmp_path):
    shutil.copytree(small_folder, tmp_path / "folder")
    for file in (tmp_path / "folder" / "variables").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(file.read_bytes()[:50])
    # In a process of its own, for Orbax's threads go on complaining when the error is told.
    command = ["-m", "vitdeblur_jax.cli.main", "convert", tmp_path / "folder", tmp_path / "out.pth"]
    ended = run_program(command, tmp_path)
    assert ended.returncode == 2
    assert f"error: {tmp_path / 'folder'}" in ended.stderr
    assert os.listdir(tmp_path) == ["folder"]


def test_too_little_disk_space_is_an_error_before_writing(small, tmp_path, monkeypatch):
    usage = SimpleNamespace(free=100_000)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    with pytest.raises(UserError, match=r"needs 0\.\d MB, 0\.1 MB are free"):
        save_pretrained(small, tmp_path / "full")
    assert os.listdir(tmp_path) == []


def save_run(folder, psnrs):
    """Saves a run whose step n has the small model of seed n as its average."""
    params = {"other": np.ones(3, np.float32)}
    with TrainingCheckpoints(folder / "checkpoints", 9) as checkpoints:
        for step, psnr in psnrs.items():
            pretrained = small_pretrained(seed=step)
            variables = {**pretrained.variables, "params": params}
            state = create_state(variables, params, optax.sgd(1), with_ema=False)
            averages = pretrained.variables["params"]
            state = state.replace(step=jax.numpy.int32(step), ema_params=averages)
            checkpoints.save(state, pretrained.config.to_dict(), {}, psnr)


@pytest.mark.parametrize(
    ("psnrs", "chosen"),
    [({9: None, 10: None}, 10), ({1: 20.0, 2: 30.0, 3: 25.0, 10: None}, 2), ({1: 3.0, 2: 3.0}, 2)],
)
def test_the_best_or_newest_checkpoint_of_a_run_is_loaded(tmp_path, psnrs, chosen, capfd):
    save_run(tmp_path, psnrs)
    (tmp_path / "checkpoints" / "11.orbax-checkpoint-tmp").mkdir()
    step_folder = tmp_path / "checkpoints" / str(chosen)
    expected = small_pretrained(seed=chosen)
    for source in (tmp_path, tmp_path / "checkpoints", step_folder):
        loaded = load_pretrained(source)
        assert loaded.source == str(step_folder)
        assert loaded.config == expected.config
        jax.tree.map(np.testing.assert_array_equal, loaded.variables, expected.variables)
        told = "" if source == step_folder else f"checkpoint: {step_folder}\n"
        assert capfd.readouterr().err == told


def test_a_run_without_a_complete_checkpoint_is_an_error(tmp_path):
    (tmp_path / "checkpoints" / "1.orbax-checkpoint-tmp").mkdir(parents=True)
    with pytest.raises(UserError, match=rf"{tmp_path}: this run has saved no checkpoint yet"):
        load_pretrained(tmp_path)
    with pytest.raises(UserError, match="not a checkpoint folder"):
        load_pretrained(tmp_path / "checkpoints")


def test_a_run_with_a_damaged_checkpoint_is_an_error(tmp_path):
    save_run(tmp_path, {1: 20.0, 2: 19.0})
    damaged = tmp_path / "checkpoints" / "2" / "metrics" / "metrics"
    for text in ("", '{"psn'):
        damaged.write_text(text)
        with pytest.raises(UserError, match=r"checkpoints/2/metrics.*delete \S+/checkpoints/2"):
            load_pretrained(tmp_path)
    (tmp_path / "checkpoints" / "1" / "config" / "metadata").unlink()
    shutil.rmtree(tmp_path / "checkpoints" / "2")
    with pytest.raises(UserError, match=r"checkpoints/1 is not a checkpoint folder"):
        load_pretrained(tmp_path)


class Mirrored(ViTDeblur):
    """Has the variables of ViTDeblur and computes something else."""

    def __call__(self, image):
        return super().__call__(image[:, ::-1])


class OneLayer(nn.Module):
    side: int
    channels: int

    @nn.compact
    def __call__(self, primary, contextual):
        tokens = nn.Dense(self.side**2 * self.channels)(contextual[:, 1:])
        return tokens_to_map(tokens, self.side)


def _mirrored(config):
    model = create_network(config)
    names = [field.name for field in dataclasses.fields(model)]
    return Mirrored(**{n: getattr(model, n) for n in names if n not in ("parent", "name")})


def _with_other_decoder(config):
    return create_network(config).clone(decoder=OneLayer(4, 5))


@pytest.mark.parametrize(("make", "name"), [(_mirrored, "Mirrored"), (_with_other_decoder, None)])
def test_a_changed_network_is_saved_and_loaded_with_its_model(small, tmp_path, make, name):
    model, name = make(small.config), name or "ViTDeblur"
    variables = random_variables(model, 0)
    pretrained = Pretrained(model, variables, "random")
    with pytest.raises(UserError, match=rf"a .pth file is for .* this {name} is not one; save"):
        save_pretrained(pretrained, tmp_path / "a.pth")
    for path in (tmp_path / "folder", tmp_path / "a.safetensors"):
        save_pretrained(pretrained, path)
        with pytest.raises(UserError, match=f"of the class '{name}': load it with"):
            load_pretrained(path)
        loaded = load_pretrained(path, model)
        assert loaded.model is model
        jax.tree.map(np.testing.assert_array_equal, loaded.variables, variables)
        with pytest.raises(UserError, match=r"does not fit the model|of another network"):
            load_pretrained(path, make(small_configuration(primary_encoder__width=64)))
        with pytest.raises(UserError, match=f"its class is '{name}', and your class is 'Dense'"):
            load_pretrained(path, nn.Dense(3))
    save_pretrained(small, tmp_path / "small")
    message = f"its network is 'vitdeblur', and your class is '{name}'. .* save dataclasses.replace"
    with pytest.raises(UserError, match=message):
        load_pretrained(tmp_path / "small", model)


def test_a_plain_dict_is_a_config_and_is_checked(small, tmp_path):
    save_pretrained(small, tmp_path / "a.safetensors")
    config = small.config.to_dict()
    assert load_pretrained(tmp_path / "a.safetensors", {**config}).config == small.config
    wrong = {**config, "tiling": {**config["tiling"], "wiindow": 1}}
    with pytest.raises(UserError, match=r"no key 'tiling.wiindow' .did you mean 'tiling.window'"):
        load_pretrained(tmp_path / "a.safetensors", wrong)


def test_repr_is_one_line(small):
    assert repr(small) == "<Pretrained ViTDeblur, 0.1 M values, from 'random'>"
