"""The published model against golden outputs of the released code, with stand-in weights.

Both tests take two gigabytes: in one file, they never run at the same time.
"""

import jax
import numpy as np
import pytest

from tests.stand_in_weights import reference_state_dict
from vitdeblur_jax import deblur, load_pretrained
from vitdeblur_jax.checkpoints.pytorch_files import write_pytorch_file


@pytest.mark.usefixtures("optimized")
def test_the_public_face_gives_what_the_reference_gives(tmp_path, golden):
    state_dict = {f"module.{name}": value for name, value in reference_state_dict(0).items()}
    write_pytorch_file(tmp_path / "reference.pth", {"epoch": 7, "state_dict": state_dict})
    del state_dict  # half a gigabyte
    pretrained = load_pretrained(tmp_path / "reference.pth")
    restored = deblur(golden["image_rgb"].astype(np.float32) / 255, pretrained)
    difference = np.abs(restored - golden["restored_rgb"])
    assert restored.shape == (414, 508, 3)
    assert difference.max() < 1e-3
    assert difference.mean() < 5e-5


@pytest.mark.usefixtures("optimized")
def test_every_stage_matches_the_reference(base_model, golden):
    image = golden["tile_rgb"][None] / np.float32(255)

    def is_compared(module, _):
        name = module.name or ""
        return "blocks_" in name or name in ("contextual_encoder", "decoder", "prediction")

    apply = jax.jit(
        lambda variables, image: base_model.model.apply(
            variables, image, capture_intermediates=is_compared, mutable="intermediates"
        )
    )
    _, state = apply(base_model.variables, image)
    found = state["intermediates"]
    rows = np.array([0, 1, 17, 480, 961])
    for i in range(4):
        tokens = found["primary_encoder"][f"blocks_{i}"]["__call__"][0]
        mean, std = golden[f"primary_{i}_meanstd"]
        _assert_near(tokens[0, rows], golden[f"primary_{i}"], std)
        _assert_near([tokens.mean(), tokens.std(ddof=1)], [mean, std], std)

    tokens = found["contextual_encoder"]["__call__"][0]
    mean, std = golden["contextual_meanstd"]
    _assert_near(tokens[0, rows], golden["contextual"], std)
    _assert_near([tokens.mean(), tokens.std(ddof=1)], [mean, std], std)

    tokens = found["decoder"]["prediction"]["__call__"][0]
    mean, std = golden["decoder_meanstd"]
    _assert_near(tokens[0, np.array([0, 16, 479, 960])], golden["decoder_tokens"], std)
    _assert_near([tokens.mean(), tokens.std(ddof=1)], [mean, std], std)

    crop = found["decoder"]["__call__"][0][0, 100:116, 200:216]
    _assert_near(crop, golden["feature_map_crop"].transpose(1, 2, 0), std)


def _assert_near(actual, expected, std):
    """Asserts the bound of parity: 2e-4, of the tensor's std where that is larger than 1."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-4 * max(1.0, std))
