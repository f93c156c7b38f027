"""Peak memory of restoring an image, beyond the loaded model, the image and its result.

    python -m benchmarks.memory

Each case runs in its own process, on the CPU, with uint8 input and output: `tiny` at one width and
1, 6 and 24 megapixels, `base` at LFDOF's size. The peak of the host includes compilation; on a CPU
it also includes the device's arrays. The peak of the device is the largest sum of the arrays that
are alive when rows come back, without the variables. The last column is the size of the reference's
float64 feature maps of all windows. Linux only: it reads the high-water mark from /proc.
"""

import ctypes
import multiprocessing
import time

import numpy as np

from benchmarks.process_memory import begin_high_water_mark, memory

STRIDE = 94
CASES = [
    ("tiny", 3000, 333),
    ("tiny", 3000, 2000),
    ("tiny", 3000, 8000),
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
    header = ("image", "host, MB", "device, MB", "seconds", "float64 maps, MB")
    print(format_table(header, rows))


def measure(name: str, width: int, height: int) -> tuple[str, ...]:
    """Returns the row of one case."""
    import jax

    from vitdeblur_jax.checkpoints.pretrained import Pretrained, on_local_devices
    from vitdeblur_jax.inference.chosen_tiling import count_tiles
    from vitdeblur_jax.inference.restoration import restore
    from vitdeblur_jax.inference.strips import Output
    from vitdeblur_jax.models import create, initial_variables

    model = create(name)
    variables = jax.block_until_ready(initial_variables(model, seed=0))
    pretrained = on_local_devices(Pretrained(model, variables, "random"))
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    result, done, on_device = np.full_like(image, 255), 0, 0
    ctypes.CDLL(None).malloc_trim(0)  # returns memory that the initialization has freed
    loaded, before = memory("VmRSS"), _live_bytes()
    begin_high_water_mark()
    started = time.perf_counter()
    output = Output(np.uint8)
    for rows in restore(model, pretrained.variables, image, stride=STRIDE, output=output):
        result[done : done + len(rows)] = rows
        done += len(rows)
        on_device = max(on_device, _live_bytes() - before)
    seconds = time.perf_counter() - started
    side, features = model.tiling.map_side, model.image_head.features
    windows = count_tiles(model, height, width, STRIDE)
    return (
        f"{name} {width} x {height}",
        f"{(memory('VmHWM') - loaded) / 2**20:.0f}",
        f"{on_device / 2**20:.1f}",
        f"{seconds:.0f}",
        f"{windows * side**2 * features * 8 / 2**20:.0f}",
    )


def _live_bytes() -> int:
    import jax

    return sum(array.nbytes for array in jax.live_arrays())


if __name__ == "__main__":
    main()
