"""State dicts in the files of other training programs: wrappers, prefixes, dtypes."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from vitdeblur_jax import (
    UserError,
    load_pretrained,
)
from vitdeblur_jax.checkpoints.pytorch_files import write_pytorch_file
from vitdeblur_jax.models.vitdeblur.published import published_shapes, to_published


@pytest.mark.parametrize("wrapper", ["params_ema", "params", "net_g", 7])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", ""])
def test_any_wrapper_and_any_prefix_is_read(small, tmp_path, wrapper, prefix):
    state_dict = to_published(small.model, small.variables)
    wrapped = {f"{prefix}{name}": value for name, value in state_dict.items()}
    write_pytorch_file(tmp_path / "a.pth", {wrapper: wrapped, "iter": 5})
    loaded = load_pretrained(tmp_path / "a.pth", small.config)
    bias = [x.variables["params"]["decoder"]["norm"]["bias"] for x in (loaded, small)]
    np.testing.assert_array_equal(*bias)
    assert loaded.unused.keys() == state_dict.keys() - published_shapes(small.model).keys()


def test_averaged_parameters_are_preferred_and_reported(small, tmp_path, capsys):
    state_dict = to_published(small.model, small.variables)
    zeros = {name: np.zeros_like(value) for name, value in state_dict.items()}
    write_pytorch_file(tmp_path / "a.pth", {"params": zeros, "params_ema": state_dict})
    bias = load_pretrained(tmp_path / "a.pth", small.config).variables["params"]["decoder"]["norm"]
    assert np.any(bias["bias"])
    assert (
        "several state dicts, at 'params', 'params_ema'; 'params_ema' is" in capsys.readouterr().err
    )
    write_pytorch_file(tmp_path / "b.pth", {"generator": state_dict, "teacher": zeros})
    with pytest.raises(UserError, match="several state dicts, at 'generator', 'teacher'"):
        load_pretrained(tmp_path / "b.pth", small.config)
    both = {f"{p}.{name}": value for name, value in state_dict.items() for p in ("net", "ema")}
    write_pytorch_file(tmp_path / "c.pth", both)
    with pytest.raises(UserError, match=r"twice, with the prefixes '(net|ema)\.' and '"):
        load_pretrained(tmp_path / "c.pth", small.config)


@pytest.mark.parametrize(
    ("contents", "told"),
    [
        ([1], "holds no state dict, but a list"),
        ({}, "it is empty"),
        ({"epoch": 1, "optimizer": {}}, "it has the keys 'epoch', 'optimizer'"),
        ({f"k{n}": 1 for n in range(99)}, "'k0', 'k1', 'k2', 'k3', 'k4', and 94 more"),
        ({"params": {3: np.zeros(2), "a": np.zeros(2)}}, "names must be strings, not 3"),
        ({None: np.zeros(2)}, "names must be strings, not None"),
        ({"model": {"a": np.zeros(2), "b": [1]}}, "no arrays are at 'b'"),
        (
            {f"layer{n}.weight": np.zeros(2) for n in range(900)},
            r"0 of 70 names fit; missing are .*, and 65 more; stored are layer0\.w.* 895 more",
        ),
    ],
)
def test_an_invalid_state_dict_is_a_short_error(small, tmp_path, contents, told):
    write_pytorch_file(tmp_path / "a.pth", contents)
    with pytest.raises(UserError, match=told) as refusal:
        load_pretrained(tmp_path / "a.pth", small.config)
    assert len(str(refusal.value)) < 900


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_])
@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_weights_that_are_not_floats_are_refused_by_name(small, tmp_path, dtype, name):
    state_dict = to_published(small.model, small.variables)
    wrong = "decoder.decoder_pred.weight"
    state_dict[wrong] = state_dict[wrong].astype(dtype)
    if name.endswith(".pth"):
        write_pytorch_file(tmp_path / name, state_dict)
    else:
        save_file(state_dict, tmp_path / name)
    with pytest.raises(UserError, match=rf"{wrong} is {np.dtype(dtype)}"):
        load_pretrained(tmp_path / name, small.config)


@pytest.mark.parametrize(("dtype", "size"), [("F8_E4M3", 1), ("F8_E5M2", 1), ("C64", 8)])
def test_a_safetensors_dtype_without_numpy_equivalent_is_an_error(tmp_path, dtype, size):
    header = json.dumps({"a": {"dtype": dtype, "shape": [1], "data_offsets": [0, size]}}).encode()
    whole = len(header).to_bytes(8, "little") + header + bytes(size)
    (tmp_path / "a.safetensors").write_bytes(whole)
    with pytest.raises(UserError, match=f"'a' is of dtype {dtype}"):
        load_pretrained(tmp_path / "a.safetensors")


def test_bfloat16_in_safetensors_is_read(small, tmp_path):
    state_dict = to_published(small.model, small.variables)
    half = {name: value.astype(ml_dtypes.bfloat16) for name, value in state_dict.items()}
    save_file(half, tmp_path / "a.safetensors")
    bias = load_pretrained(tmp_path / "a.safetensors", small.config).variables["params"]["decoder"]
    expected = small.variables["params"]["decoder"]["norm"]["bias"]
    np.testing.assert_allclose(bias["norm"]["bias"], expected, rtol=1e-2)
