"""The state dict of the released code, against the network that it belongs to, in NumPy."""

import json

import jax
import numpy as np
import pytest
from flax import traverse_util

from tests.small_model import small_pretrained
from vitdeblur_jax.checkpoints.recognition import read_entries, variables_from_published
from vitdeblur_jax.checkpoints.safetensors_files import write_safetensors
from vitdeblur_jax.models import create_network, named_config
from vitdeblur_jax.models.vitdeblur.position_embedding import sincos_position_embedding
from vitdeblur_jax.models.vitdeblur.published import published_shapes, to_published
from vitdeblur_jax.utils.errors import UserError

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
PATCH = "primary_encoder.pretrain_mae.patch_embed.proj"


@pytest.fixture(scope="module")
def small():
    """The small model with two blocks per part, so that a wrong block number is noticed."""
    return small_pretrained(primary_encoder__depth=2, decoder__depth=2)


@pytest.fixture(scope="module")
def state_dict(small):
    """A reference checkpoint of the small configuration."""
    return to_published(small.model, small.variables)


def test_names_and_shapes_are_those_of_a_reference_checkpoint(data_folder, small):
    published = json.loads((data_folder / "state_dict_shapes.json").read_text())
    ours = published_shapes(create_network(named_config("base")))
    assert all(list(shape) == published[name] for name, shape in ours.items())
    unused = set(published) - set(ours)
    written = set(to_published(small.model, small.variables))
    # The small model has fewer blocks, and as many entries that nothing uses.
    in_small = {name.replace("blocks.4.", "blocks.2.") for name in unused}
    assert in_small == written - set(published_shapes(small.model))


def test_the_folded_tokenizer_sees_what_the_reference_sees(state_dict, small):
    variables, _ = variables_from_published(state_dict, small.model, "file")
    rgb = np.random.default_rng(0).random((42, 42, 3))
    bgr = rgb[..., ::-1].transpose(2, 0, 1)
    seen = (bgr - MEAN[:, None, None]) / STD[:, None, None]
    kernel, bias = state_dict[f"{PATCH}.weight"], state_dict[f"{PATCH}.bias"]
    patch = seen[:, 8:16, 20:28]  # the patch in row 2, column 5
    expected = (kernel.astype(np.float64) * patch).sum(axis=(1, 2, 3)) + bias

    def tokens(module, image):
        return module.tokenizer.patch_embedding((image - MEAN) / STD)

    image = rgb[None].astype(np.float32)
    found = small.model.apply(variables, image, method=tokens)[0, 2, 5]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_image_head_sees_and_gives_rgb(state_dict, small):
    variables, _ = variables_from_published(state_dict, small.model, "file")
    head = variables["params"]["image_head"]
    first, last = state_dict["inputecoding_step.weight"], state_dict["outputprojr_step.weight"]
    for view in (0, 3):
        for channel in range(3):
            ours = head["input_convolution"]["kernel"][:, :, view + channel]
            theirs = first[:, view + 2 - channel].transpose(1, 2, 0)
            np.testing.assert_array_equal(ours, theirs)
    ours, theirs = head["output_convolution"]["kernel"], last.transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(ours, theirs[..., ::-1])
    bias = state_dict["outputprojr_step.bias"]
    np.testing.assert_array_equal(head["output_convolution"]["bias"], bias[::-1])


def test_a_round_trip_changes_only_folded_entries(state_dict, small):
    unused = {
        name: np.random.default_rng(1).random(value.shape).astype(value.dtype)
        for name, value in state_dict.items()
        if name not in published_shapes(small.model)
    }
    variables, found = variables_from_published({**state_dict, **unused}, small.model, "file")
    assert set(found) == set(unused)
    again = {**to_published(small.model, variables), **found}
    for name, value in {**state_dict, **unused}.items():
        if name == f"{PATCH}.weight":
            np.testing.assert_allclose(again[name], value, rtol=1.2e-7)
        elif name == f"{PATCH}.bias":
            size = np.abs(value) + np.abs(state_dict[f"{PATCH}.weight"]).sum(axis=(1, 2, 3))
            assert np.all(np.abs(again[name] - value) <= 1e-6 * size)
        else:
            np.testing.assert_array_equal(again[name], value)


def test_module_prefixes_and_half_precision_are_taken(state_dict, small):
    half = {f"module.{name}": value.astype(np.float16) for name, value in state_dict.items()}
    variables, _ = variables_from_published(half, small.model, "file")
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    for one, other in zip(*map(jax.tree.leaves, (variables, small.variables)), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-3)


def test_a_missing_position_table_is_computed(golden):
    model = create_network(named_config("base"))
    shapes = {
        name: np.broadcast_to(np.float32(0), s) for name, s in published_shapes(model).items()
    }
    del shapes["primary_encoder.pretrain_mae.pos_embed"]
    variables, _ = variables_from_published(shapes, model, "file")
    table = variables["position_embedding"]["tokenizer"]["table"]
    rows = np.array([0, 1, 2, 36, 37, 612, 1189, 1225])
    np.testing.assert_allclose(table[rows], golden["pos_embed_35_rows"], atol=1e-5)


def test_missing_and_misshapen_entries_are_listed(state_dict, small):
    broken = dict(state_dict)
    del broken["decoder.decoder_norm.bias"], broken["contextual_encoder.head.weight"]
    broken["decoder.decoder_pred.weight"] = np.zeros((3, 48), np.float32)
    with pytest.raises(UserError) as refusal:
        variables_from_published(broken, small.model, "weights.pth")
    text = str(refusal.value)
    assert "weights.pth" in text
    assert "3 entries" in text
    assert "decoder.decoder_norm.bias is missing" in text
    assert "contextual_encoder.head.weight is missing" in text
    assert "decoder.decoder_pred.weight is (3, 48), should be (80, 48)" in text


def _from_encoder(small, state_dict, folder):
    path = folder / "mae.safetensors"
    write_safetensors(path, state_dict, {})
    return small.model.initial_files({"encoder": str(path)}, read_entries)


@pytest.mark.parametrize("has_table", [True, False])
def test_a_pretrained_encoder_initialises_tokenizer_and_primary_encoder(
    state_dict, small, has_table, tmp_path, capsys
):
    prefix = "primary_encoder.pretrain_mae."
    rng = np.random.default_rng(5)
    pretraining = {
        name.removeprefix(prefix): rng.standard_normal(value.shape).astype(np.float32)
        for name, value in state_dict.items()
        if name.startswith(prefix)
    }
    table = sincos_position_embedding(6, 32)[None]
    if has_table:
        pretraining["pos_embed"] = table
    else:
        del pretraining["pos_embed"]
    pretraining["decoder_embed.weight"] = np.zeros((4, 4), np.float32)
    given = _from_encoder(small, pretraining, tmp_path)
    assert "6 of its entries are not used" in capsys.readouterr().err
    new = traverse_util.unflatten_dict(given)
    kernel = new["params"]["tokenizer"]["patch_embedding"]["kernel"]
    theirs = pretraining["patch_embed.proj.weight"]
    np.testing.assert_array_equal(kernel, theirs.transpose(2, 3, 1, 0))
    block = new["params"]["primary_encoder"]["blocks_1"]["attention"]["qkv"]
    np.testing.assert_array_equal(block["kernel"], pretraining["blocks.1.attn.qkv.weight"].T)
    assert new["position_embedding"]["tokenizer"]["table"].shape == (101, 32)
    assert set(new["params"]) == {"tokenizer", "primary_encoder"}


def test_a_position_table_of_another_shape_is_refused(state_dict, small, tmp_path):
    prefix = "primary_encoder.pretrain_mae."
    names = [name for name in state_dict if name.startswith(prefix)]
    encoder = {name.removeprefix(prefix): state_dict[name] for name in names}
    for shape in [(1, 36, 32), (1, 37, 16), (37, 32)]:
        encoder["pos_embed"] = np.zeros(shape, np.float32)
        with pytest.raises(UserError, match="pos_embed is"):
            _from_encoder(small, encoder, tmp_path)


def test_a_pretrained_encoder_of_another_width_is_refused(small, tmp_path):
    shapes = published_shapes(small_pretrained(primary_encoder__width=16).model)
    prefix = "primary_encoder.pretrain_mae."
    wrong = {n.removeprefix(prefix): np.zeros(s) for n, s in shapes.items() if prefix in n}
    with pytest.raises(UserError, match=r"mae.safetensors does not fit .* should be \(32,\)"):
        _from_encoder(small, wrong, tmp_path)
