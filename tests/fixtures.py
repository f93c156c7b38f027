"""The fixtures of all tests, and what happens between the modules."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

import vitdeblur_jax
import vitdeblur_jax.cli.main
import vitdeblur_jax.data.defocus.synthesis_files
import vitdeblur_jax.data.input_pipeline
import vitdeblur_jax.data.integrity
import vitdeblur_jax.data.records.builders
import vitdeblur_jax.data.records.preparation
import vitdeblur_jax.evaluation
import vitdeblur_jax.inference.export
import vitdeblur_jax.inference.restore_files
import vitdeblur_jax.training.loop  # noqa: F401
from tests.compilation import optimized_compilation
from tests.memory import release_memory, resident_memory
from tests.small_model import small_pretrained
from tests.stand_in_weights import reference_state_dict
from vitdeblur_jax.checkpoints.pretrained import Pretrained
from vitdeblur_jax.checkpoints.recognition import variables_from_published
from vitdeblur_jax.models import create_network, named_config
from vitdeblur_jax.utils.buckets import AnyPath, as_path

DATA = Path(__file__).parent / "data"
KEPT_MEMORY = 1.1e9  # bytes of a process above which compiled programs are dropped


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real images for measuring, which are too large or not free to lie in this repository."""
    folder = Path(os.environ.get("VITDEBLUR_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs the real images in {folder} (or where VITDEBLUR_SHARED says)")
    return folder


@pytest.fixture(scope="session")
def s3_server():
    """An S3 server on this machine, see `S3Server`."""
    from tests.s3_server import running_s3_server  # late: its imports take a second

    with running_s3_server() as server:
        yield server


@pytest.fixture
def bucket(s3_server) -> AnyPath:
    """A new bucket."""
    return as_path(s3_server.new_bucket())


@pytest.fixture(scope="module")
def optimized():
    """Compiles as users do from now on, for tests of golden numbers and of compiled text."""
    with optimized_compilation():
        yield


@pytest.fixture(scope="module", autouse=True)
def _forget(request):
    """Bounds the memory of the process. Below the bound, later modules reuse its programs."""
    yield
    for value in vars(request.module).values():
        if hasattr(value, "cache_clear"):  # of `functools.cache`
            value.cache_clear()
    if resident_memory() > KEPT_MEMORY:
        jax.clear_caches()
        release_memory()


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    """Golden outputs of the PyTorch reference's evaluation, stand-in weights of seed 0."""
    return dict(np.load(DATA / "evaluation_seed0.npz"))


@pytest.fixture(scope="module")
def base_model() -> Pretrained:
    """The published configuration with the stand-in weights of seed 0: half a gigabyte."""
    model = create_network(named_config("base"))
    variables, unused = variables_from_published(reference_state_dict(0), model, "stand-in")
    release_memory()  # of the state dict, half a gigabyte
    # On the device once, instead of with each call.
    variables = jax.device_put(variables)
    return Pretrained(model, variables, "stand-in", unused)


@pytest.fixture(scope="session")
def small() -> Pretrained:
    """A model that restores a window in a millisecond; every variable is random."""
    return small_pretrained()


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The golden files."""
    return DATA


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """The system's Chromium, headless."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _no_browser("Playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        _no_browser("Chromium is not installed")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=executable)
        yield launched
        launched.close()


def _no_browser(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"pages are to be opened in a browser here, but {reason}")
    pytest.skip(f"opening a page needs a browser, but {reason}")
