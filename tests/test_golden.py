"""The published model against golden outputs of the released code, with stand-in weights.

Both tests take two gigabytes: in one file, they never run at the same time.
"""

import numpy as np
import pytest

from tests.golden_stages import STAGES, stage_differences
from tests.memory import release_memory
from tests.stand_in_weights import reference_state_dict
from vitdeblur_jax import deblur, load_pretrained
from vitdeblur_jax.checkpoints.pytorch_files import write_pytorch_file


@pytest.fixture(autouse=True)
def _release_memory():
    """A gigabyte of the first test is not kept during the second one."""
    yield
    release_memory()


@pytest.mark.slow  # the stages below, and whole images of a small model, are checked by default
@pytest.mark.usefixtures("optimized")
def test_the_public_face_gives_what_the_reference_gives(tmp_path, golden):
    state_dict = {f"module.{name}": value for name, value in reference_state_dict(0).items()}
    write_pytorch_file(tmp_path / "reference.pth", {"epoch": 7, "state_dict": state_dict})
    del state_dict
    release_memory()  # half a gigabyte
    pretrained = load_pretrained(tmp_path / "reference.pth")
    restored = deblur(golden["image_rgb"].astype(np.float32) / 255, pretrained)
    difference = np.abs(restored - golden["restored_rgb"])
    assert restored.shape == (414, 508, 3)
    assert difference.max() < 1e-3
    assert difference.mean() < 5e-5


@pytest.mark.usefixtures("optimized")
def test_every_stage_matches_the_reference(base_model, golden):
    found = stage_differences(base_model.model, base_model.variables, golden)
    assert set(found) == {stage.name for stage in STAGES}
    assert max(found.values()) < 2e-4, found  # the bound of parity
