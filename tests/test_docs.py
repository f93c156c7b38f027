import re
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

from vitdeblur_jax.interop.export import export

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.slow
def test_the_step_in_train_md_runs():
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "train.md").read_text(), re.DOTALL)
    images = {key: jnp.zeros((2, 106, 106, 3), jnp.uint8) for key in ("blurred", "sharp")}
    names = dict(images)
    exec(code, names)
    assert names["metrics"]["finite"]
    assert names["state"].step == 1


@pytest.mark.slow
def test_the_code_in_export_md_runs(tmp_path):
    export("demo", tmp_path / "OUT")
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "export.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    image = "import numpy as np\nimage = np.zeros((50, 60, 3), np.uint8)"
    checks = """
assert (sharp.shape, sharp.dtype) == (image.shape, image.dtype)
assert str(function.in_avals[-1].shape) == "(batch, 106, 106, 3)"
assert function.platforms == ("cpu", "cuda", "tpu")
"""
    program = "\n".join([image, *blocks, checks])
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=600)
