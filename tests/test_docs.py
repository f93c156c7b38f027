import re
from pathlib import Path

import jax.numpy as jnp
import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.slow
def test_the_step_in_train_md_runs():
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "train.md").read_text(), re.DOTALL)
    images = {key: jnp.zeros((2, 106, 106, 3), jnp.uint8) for key in ("blurred", "sharp")}
    names = dict(images)
    exec(code, names)
    assert names["metrics"]["finite"]
    assert names["state"].step == 1
