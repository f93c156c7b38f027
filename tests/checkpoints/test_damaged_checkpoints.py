"""Damaged and hostile checkpoints: flipped bits, pipes, invalid JSON and configs."""

import contextlib
import functools
import json
import os
import re
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from vitdeblur_jax import UserError, load_pretrained
from vitdeblur_jax.checkpoints.checksums import checksum
from vitdeblur_jax.checkpoints.pytorch_files import write_pytorch_file
from vitdeblur_jax.checkpoints.recognition import read_entries
from vitdeblur_jax.models.networks import named_config
from vitdeblur_jax.models.vitdeblur.published import to_published
from vitdeblur_jax.training.checkpointing import TrainingCheckpoints


def test_a_flipped_bit_in_a_folder_is_noticed(small_folder, tmp_path):
    shutil.copytree(small_folder, tmp_path / "folder")
    files = [path for path in (tmp_path / "folder").rglob("d/*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    expected = load_pretrained(tmp_path / "folder").variables
    sound, messages = largest.read_bytes(), []
    for place in range(1000, len(sound), len(sound) // 5):
        largest.write_bytes(sound[:place] + bytes([sound[place] ^ 4]) + sound[place + 1 :])
        try:
            loaded = load_pretrained(tmp_path / "folder").variables
        except UserError as error:
            messages.append(str(error))
        else:  # a part of the file that Orbax has replaced and does not read
            jax.tree.map(np.testing.assert_array_equal, loaded, expected)
    assert len(messages) >= 3
    assert all(re.search("folder: (its data is damaged|cannot be)", text) for text in messages)
    largest.write_bytes(sound)
    load_pretrained(tmp_path / "folder")


def test_weights_that_do_not_match_the_checksum_are_refused(small, small_folder, tmp_path):
    shutil.copytree(small_folder, tmp_path / "folder")
    path = tmp_path / "folder" / "config" / "metadata"
    config = json.loads(path.read_text())
    assert config["checksums"] == {"variables": checksum(small.variables)}
    path.write_text(json.dumps({**config, "checksums": {"variables": "0" * 16}}))
    with pytest.raises(UserError, match="its data is damaged"):
        load_pretrained(tmp_path / "folder")
    del config["checksums"]  # as in folders from before there were any
    path.write_text(json.dumps(config))
    load_pretrained(tmp_path / "folder")


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a", "folder/config/metadata"])
def test_a_pipe_does_not_hang(small_folder, tmp_path, name):
    shutil.copytree(small_folder, tmp_path / "folder")
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    source = tmp_path / "folder" if name.startswith("folder") else tmp_path / name
    with pytest.raises(UserError, match="not a regular file"):
        load_pretrained(source)
    with pytest.raises(UserError):
        read_entries(str(tmp_path / name), {"a": (1,)})


DEEP = "[" * 100_000


@pytest.mark.parametrize("text", [DEEP, "[]", '"x"', "null", '{"views": {}}', '{"other": 1}'])
def test_an_invalid_config_is_an_error(small, small_folder, tmp_path, text):
    state_dict = to_published(small.model, small.variables)
    save_file(state_dict, tmp_path / "a.safetensors", {"config": text})
    write_pytorch_file(tmp_path / "a.pth", {"state_dict": state_dict, "config": text})
    shutil.copytree(small_folder, tmp_path / "folder")
    (tmp_path / "folder" / "config" / "metadata").write_text(text)
    for name in ("a.safetensors", "a.pth", "folder"):
        with pytest.raises(UserError, match=name) as refusal:
            load_pretrained(tmp_path / name)
        assert "\n" not in str(refusal.value)
        assert len(str(refusal.value)) < 600


@pytest.mark.parametrize("file", ["_CHECKPOINT_METADATA", "variables/_METADATA"])
@pytest.mark.parametrize("text", [DEEP, "[]", "null", '{"item_handlers": 3}'])
def test_damaged_metadata_of_orbax_raises_no_other_error(small_folder, tmp_path, file, text):
    shutil.copytree(small_folder, tmp_path / "folder")
    (tmp_path / "folder" / file).write_text(text)
    with contextlib.suppress(UserError):  # Orbax can do without some of it
        load_pretrained(tmp_path / "folder")


@pytest.mark.parametrize(
    "text", ["[]", '"x"', "null", DEEP, '{"psnr": "x"}', '{"psnr": []}', '{"psnr": NaN}']
)
def test_invalid_metrics_of_a_step_are_an_error(tmp_path, text):
    path = tmp_path / "checkpoints" / "5" / "metrics" / "metrics"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(UserError, match=r"5/metrics/metrics.*; delete \S+/checkpoints/5"):
        load_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"5/metrics/metrics.*; delete \S+/checkpoints/5"):
        TrainingCheckpoints(tmp_path / "checkpoints", 2)


@pytest.mark.parametrize(
    "changes",
    [{"contextual_encoder__depth": 3000}, {"primary_encoder__width": 2**70}, {"views": []}],
)
def test_a_hostile_configuration_in_a_checkpoint_is_refused_before_tracing(
    small, small_folder, tmp_path, monkeypatch, changes
):
    state_dict = to_published(small.model, small.variables)
    config = small.config.to_dict()
    for key, value in changes.items():
        *groups, name = key.split("__")
        functools.reduce(lambda group, part: group[part], groups, config["model"])[name] = value
    text = json.dumps(config)
    save_file(state_dict, tmp_path / "a.safetensors", {"config": text})
    write_pytorch_file(tmp_path / "a.pth", {"state_dict": state_dict, "config": text})
    shutil.copytree(small_folder, tmp_path / "folder")
    (tmp_path / "folder" / "config" / "metadata").write_text(text)
    monkeypatch.setattr(jax, "eval_shape", None)
    for name in ("a.safetensors", "a.pth", "folder"):
        key = next(iter(changes)).replace("__", ".")
        told = f"{name}: its configuration cannot be used .model.{key} is"
        with pytest.raises(UserError, match=told):
            load_pretrained(tmp_path / name)


def test_few_tensors_for_a_deep_configuration_are_refused_before_tracing(tmp_path, monkeypatch):
    config = named_config("base")
    config.model.primary_encoder.depth = config.model.decoder.depth = 64
    text = json.dumps(config.to_dict())
    save_file({"a": np.zeros(3)}, tmp_path / "a.safetensors", {"config": text})
    monkeypatch.setattr(jax, "eval_shape", None)
    with pytest.raises(UserError, match=r"0 of \d+ names fit"):
        load_pretrained(tmp_path / "a.safetensors")
