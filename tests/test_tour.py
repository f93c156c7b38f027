"""The notebook examples/tour.ipynb runs from top to bottom and is saved without outputs."""

import json
import re
from pathlib import Path

import pytest

from tests.forked import run_program

pytest.importorskip("matplotlib")

EXAMPLES = Path(__file__).parents[1] / "examples"
CELLS = json.loads((EXAMPLES / "tour.ipynb").read_text())["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def run(code: str, folder: Path, **environment: str) -> str:
    (folder / "images").symlink_to(EXAMPLES / "images")
    done = run_program(["-c", code], folder, MPLBACKEND="agg", **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_it_is_saved_without_outputs():
    for cell in CELLS:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_its_first_cells_run(tmp_path):
    setup, restore, *_ = CODE
    whole = 'photo = read_rgb(IMAGES / "defocused/building.jpg")[300:620, 300:620]'
    assert whole in restore  # a smaller part, because the whole would take longer
    printed = run(
        f"{setup}\n{restore.replace('[300:620, 300:620]', '[300:320, 300:320]')}", tmp_path
    )
    assert printed.startswith("<Pretrained ViTDeblur, 2.2 M values")


@pytest.mark.slow
def test_all_its_cells_run(tmp_path):
    printed = run("\n".join(CODE), tmp_path, JAX_DISABLE_MOST_OPTIMIZATIONS="0")
    assert re.search(r"decoder +blocks_2 +\(1, 144, 128\)", printed)
    before, after = map(float, re.search(r"before (\S+), after (\S+)", printed).groups())
    assert after < 0.97 * before
