"""How large is the receptive field? The gradient of a few output pixels with respect to the input.

    python examples/receptive_field.py receptive_field.png

For the central 8 x 8 pixels of a window, 51 % of the gradient lies in these pixels themselves,
which the image head copies. 22 % lies within 8 pixels around them. The rest covers the whole
window, because attention is global; similar surfaces have more of it. No patch includes the last
two rows and columns, so the center of the window does not depend on them.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import vitdeblur_jax as vd
from vitdeblur_jax.data.image_io import read_rgb
from vitdeblur_jax.data.transforms import unit_range

IMAGE = Path(__file__).parent / "images/defocused/building.jpg"
(FIGURE,) = sys.argv[1:] or ["receptive_field.png"]
TOP, LEFT, DIRECTIONS = 90, 600, 16

pretrained = vd.load_pretrained()
side = pretrained.model.tiling.size
window = unit_range(read_rgb(IMAGE)[TOP : TOP + side, LEFT : LEFT + side])
middle = slice(side // 2 - 4, side // 2 + 4)


@jax.jit
def sensitivity(variables, window, direction):
    """Returns the absolute gradient of the output's center in a direction, per input pixel."""

    def seen(window):
        return pretrained.model.apply(variables, window[None])[0, middle, middle]

    _, pull_back = jax.vjp(seen, window)
    return jnp.abs(pull_back(direction)[0]).mean(axis=-1)


directions = jax.random.normal(jax.random.key(0), (DIRECTIONS, 8, 8, 3))
maps = [sensitivity(pretrained.variables, window, direction) for direction in directions]
seen = np.mean(maps, axis=0)
distance = np.abs(np.mgrid[:side, :side] - (side - 1) / 2).max(axis=0) - 3.5
for reach in (0, 8, 16, 32):
    print(f"{seen[distance <= reach].sum() / seen.sum():.0%} within {reach} pixels of them")
is_blind = seen < 1e-6 * seen.max()  # Fourier transforms leave rounding errors
print(f"{is_blind.all(axis=1).sum()} rows and {is_blind.all(axis=0).sum()} columns are not seen")

figure, axes = plt.subplots(1, 2, figsize=(6, 3), layout="constrained")
for axis, shown in zip(axes, (window, np.log10(seen + 1e-7)), strict=True):
    axis.imshow(shown)
    axis.axis("off")
figure.savefig(FIGURE, dpi=80)
