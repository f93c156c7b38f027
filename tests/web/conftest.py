"""A fixture: a small checkpoint."""

import pytest

from vitdeblur_jax import save_pretrained


@pytest.fixture(scope="module")
def checkpoint(small, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
    save_pretrained(small, path)
    return str(path)
