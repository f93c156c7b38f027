"""Fixtures of runs: a few made-up pairs to train on, and training steps that are traced once."""

from pathlib import Path

import pytest

from tests.training.small_run import images, prepare_once
from vitdeblur_jax.training import loop


@pytest.fixture(scope="module", autouse=True)
def _shared_steps():
    """Runs with equal settings share one training step, so that it is traced once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "prepare", prepare_once)
        yield


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    """24 pairs to train on, and three in `val`: one of four processes gets none."""
    # Grain shuffles few examples slowly: 2.5 ms each for six, 0.75 ms for 24.
    root = images(tmp_path_factory.mktemp("pairs"), count=24)
    images(root / "val", count=3, first=24)
    return root
