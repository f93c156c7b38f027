"""Fixtures for checkpoints by address, and a checkpoint folder to copy."""

from pathlib import Path

import pytest

from tests.checkpoints.fake_hub import WEIGHTS, serving_hub
from vitdeblur_jax import save_pretrained


@pytest.fixture(scope="session")
def small_folder(small, tmp_path_factory) -> Path:
    """The checkpoint folder of `small`, for tests to copy: writing one takes 0.1 s."""
    folder = tmp_path_factory.mktemp("small") / "folder"
    save_pretrained(small, folder)
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub in place of the Hugging Face Hub, with one repository and an empty cache."""
    constants = pytest.importorskip("huggingface_hub.constants")
    with serving_hub({"net.safetensors": WEIGHTS, "README.md": b"# A net\n"}) as hub:
        template = hub.server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # between its retries
        hub.cache = tmp_path / "hub"
        yield hub
