"""How much of a whole image's time the network itself takes.

    python -m benchmarks.whole_image [--model base] [--width 1680] [--height 1120]

Restores an image with random weights, uint8 in and out, and times single windows before and after.
The ratio is (number of windows x seconds of a window) / seconds of the image. What is missing to 1
is the image head, cutting and blending, and copies between host and device.
"""

import argparse
import time

import jax
import numpy as np

from vitdeblur_jax.checkpoints.pretrained import Pretrained, on_local_devices
from vitdeblur_jax.inference.chosen_tiling import count_tiles
from vitdeblur_jax.inference.deblurring import deblur
from vitdeblur_jax.inference.restoration import window_features
from vitdeblur_jax.models import create, initial_variables

_WINDOWS = 8  # timed before and after


def main() -> None:
    """Prints the times and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="base", help="a configuration of ViTDeblur")
    parser.add_argument("--width", type=int, default=1680)
    parser.add_argument("--height", type=int, default=1120)
    options = parser.parse_args()
    model = create(options.model)
    pretrained = on_local_devices(Pretrained(model, initial_variables(model, 0), "random"))
    size = model.tiling.size
    shape = (options.height, options.width, 3)
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    deblur(image[:size, :size], pretrained)  # compiles
    before = window_seconds(pretrained)
    started = time.perf_counter()
    deblur(image, pretrained)
    seconds = time.perf_counter() - started
    after = window_seconds(pretrained)
    count = count_tiles(model, options.height, options.width)
    ratio = count * (before + after) / 2 / seconds
    print(
        f"{options.model}, {options.width} x {options.height}, {count} windows: {seconds:.1f} s; a "
        f"window {before:.3f} s before and {after:.3f} s after; ratio {ratio:.3f}"
    )


def window_seconds(pretrained: Pretrained) -> float:
    """Returns the mean time of a window."""
    size = pretrained.model.tiling.size
    window = jax.device_put(np.full((1, size, size, 3), 0.5, np.float32))
    call = window_features
    jax.block_until_ready(call(pretrained.model, pretrained.variables, window))
    started = time.perf_counter()
    for _ in range(_WINDOWS):
        jax.block_until_ready(call(pretrained.model, pretrained.variables, window))
    return (time.perf_counter() - started) / _WINDOWS


if __name__ == "__main__":
    main()
