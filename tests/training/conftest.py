"""Fixtures of runs: quick compilation, and a few made-up pairs to train on."""

from pathlib import Path

import pytest

from tests.training.small_run import photographs, quick_compilation


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """What `quick_compilation` does, for the tests of a module."""
    with quick_compilation(tmp_path_factory.getbasetemp() / "compiled"):
        yield


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    """Six pairs to train on, three in `val`: of two processes one gets two, of four one none."""
    root = photographs(tmp_path_factory.mktemp("pairs"))
    photographs(root / "val", count=3, first=6)
    return root
