"""Peak memory of restoring an image, beyond the memory of the process with the loaded model.

    python -m benchmarks.memory

Each case runs in its own process, on the CPU, with uint8 input and output: `tiny` at 1, 6 and 24
megapixels, `base` at LFDOF's size. The peak includes compilation, the image and its restoration.
The last column is the size of the reference's float64 feature maps of all windows. Linux only: it
reads the high-water mark from /proc.
"""

import ctypes
import multiprocessing
import time

import numpy as np

from benchmarks.process_memory import begin_high_water_mark, memory

STRIDE = 94
CASES = [
    ("tiny", 1152, 864),
    ("tiny", 3000, 2000),
    ("tiny", 6000, 4000),
    ("base", 1008, 688),
]


def main() -> None:
    """Prints a line for each case."""
    from vitdeblur_jax.utils.table import format_table

    context = multiprocessing.get_context("spawn")
    rows = []
    for case in CASES:
        with context.Pool(1) as pool:
            rows.append(pool.apply(measure, case))
            print(*rows[-1], flush=True)
    header = ("image", "loaded, MB", "peak beyond it, MB", "seconds", "float64 maps, MB")
    print(format_table(header, rows))


def measure(name: str, width: int, height: int) -> tuple[str, ...]:
    """Returns the row of one case."""
    import jax

    from vitdeblur_jax.checkpoints.pretrained import Pretrained
    from vitdeblur_jax.inference.deblurring import deblur
    from vitdeblur_jax.inference.restoration import count_tiles
    from vitdeblur_jax.models import create, initial_variables

    model = create(name)
    variables = jax.block_until_ready(initial_variables(model, seed=0))
    pretrained = Pretrained(model, variables, "random")
    ctypes.CDLL(None).malloc_trim(0)  # returns memory that the initialization has freed
    loaded = memory("VmRSS")
    begin_high_water_mark()
    started = time.perf_counter()
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    deblur(image, pretrained, stride=STRIDE)
    seconds = time.perf_counter() - started
    side, features = model.tiling.map_side, model.image_head.features
    windows = count_tiles(model, height, width, STRIDE)
    return (
        f"{name} {width} x {height}",
        f"{loaded / 2**20:.0f}",
        f"{(memory('VmHWM') - loaded) / 2**20:.0f}",
        f"{seconds:.0f}",
        f"{windows * side**2 * features * 8 / 2**20:.0f}",
    )


if __name__ == "__main__":
    main()
