"""Seconds and memory of each network for a photo of DPDD.

    python -m benchmarks.networks [NAME ...] [--width 1680] [--height 1120] [--out networks.jsonl]

Each network restores one image with random weights in its own process, uint8 in and out. The names
are configurations, see `vitdeblur networks`; the default is one with a single view of each network.
Compilation is measured apart. The peak is that of the process, including compilation. Each result
is a line of the file; networks that the file holds at this size are not measured again, so an
interrupted command resumes. A network that takes the whole image is restored in tiles, after a
note, if the memory that is free does not suffice. Linux only: the peak is read from /proc.
"""

import argparse
import json
import multiprocessing
import time
from pathlib import Path

import numpy as np

from benchmarks.process_memory import memory

NAMES = (
    *("base", "dpdnet_single", "aifnet", "mdp", "kpac", "ifanet", "gkmnet", "drbnet"),
    *("restormer", "nrknet"),
)
_COMPILATION = "/jax/core/compile/"  # prefix of the events: tracing, lowering, compiling


def main() -> None:
    """Measures the networks that the file lacks and prints the table."""
    from vitdeblur_jax.utils.table import format_table

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME")
    parser.add_argument("--width", type=int, default=1680)
    parser.add_argument("--height", type=int, default=1120)
    parser.add_argument("--out", type=Path, default=Path("networks.jsonl"))
    options = parser.parse_args()
    size = {"width": options.width, "height": options.height}
    context = multiprocessing.get_context("spawn")
    for name in options.names:
        if measured(options.out, name, size):
            continue
        with context.Pool(1) as pool:
            result = pool.apply(measure, (name, options.width, options.height))
        print(json.dumps(result), flush=True)
        with options.out.open("a") as file:
            file.write(json.dumps(result) + "\n")
    results = [measured(options.out, name, size) for name in options.names]
    header = ("network", "tiles", "seconds", "to compile", "peak, GB")
    keys = ("network", "tiles", "seconds", "seconds_to_compile", "peak_gb")
    print(format_table(header, [tuple(str(result[key]) for key in keys) for result in results]))


def measured(file: Path, name: str, size: dict) -> dict:
    """Returns the result in the file for a network and an image size; empty if there is none."""
    lines = file.read_text().splitlines() if file.exists() else []
    wanted = {"network": name, **size}.items()
    return next((line for line in map(json.loads, lines) if wanted <= line.items()), {})


def measure(name: str, width: int, height: int) -> dict:
    """Returns the result of one network."""
    import jax

    from vitdeblur_jax.checkpoints.pretrained import Pretrained, on_local_devices
    from vitdeblur_jax.inference.chosen_tiling import count_tiles
    from vitdeblur_jax.inference.deblurring import deblur
    from vitdeblur_jax.models import abstract_variables, create
    from vitdeblur_jax.models.network import views_of

    compilations = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: (
            compilations.append(seconds) if event.startswith(_COMPILATION) else None
        )
    )
    network = create(name)
    variables = jax.tree.map(random_leaf, abstract_variables(network))
    pretrained = on_local_devices(Pretrained(network, variables, "random"))
    shape = (height, width, 3 * views_of(network))
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    compilations.clear()
    started = time.perf_counter()
    deblur(image, pretrained)
    seconds, compiling = time.perf_counter() - started, sum(compilations)
    return {
        "network": name,
        "width": width,
        "height": height,
        "tiles": count_tiles(network, height, width),
        "seconds": round(seconds - compiling, 1),
        "seconds_to_compile": round(compiling, 1),
        "peak_gb": round(memory("VmHWM") / 1e9, 1),
    }


def random_leaf(leaf) -> np.ndarray:
    """Returns positive values with which activations stay finite; compiles no initialization.

    IFANet filters its features 17 times with kernels that it predicts, so these must be small.
    """
    fan_in = max(int(np.prod(leaf.shape[:-1])), 1)
    return 0.1 * np.random.default_rng(0).random(leaf.shape, np.float32) / fan_in


if __name__ == "__main__":
    main()
