"""Seconds of each network for a DPDD photograph.

    python -m benchmarks.networks [NAME ...] [--width 1680] [--height 1120]

Restores one image with random weights, uint8 in and out. Compilation is measured apart. The names
are configurations, see `vitdeblur networks`; by default one for each network other than ViTDeblur.
"""

import argparse
import time

import jax
import numpy as np

from vitdeblur_jax.checkpoints.pretrained import Pretrained, on_local_devices
from vitdeblur_jax.inference.chosen_tiling import count_tiles
from vitdeblur_jax.inference.deblurring import deblur
from vitdeblur_jax.models import create, initial_variables
from vitdeblur_jax.models.network import views_of
from vitdeblur_jax.models.networks import NETWORKS

_COMPILATION = "/jax/core/compile/"  # prefix of the events: tracing, lowering, compiling


def main() -> None:
    """Prints a line for each network."""
    others = [next(iter(row.configurations)) for n, row in NETWORKS.items() if n != "vitdeblur"]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", default=others)
    parser.add_argument("--width", type=int, default=1680)
    parser.add_argument("--height", type=int, default=1120)
    options = parser.parse_args()
    compilations = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: (
            compilations.append(seconds) if event.startswith(_COMPILATION) else None
        )
    )
    for name in options.names:
        network = create(name)
        pretrained = on_local_devices(Pretrained(network, initial_variables(network, 0), "random"))
        shape = (options.height, options.width, 3 * views_of(network))
        image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        compilations.clear()
        started = time.perf_counter()
        deblur(image, pretrained)
        seconds = time.perf_counter() - started
        compiling = sum(compilations)
        tiles = count_tiles(network, *shape[:2])
        print(
            f"{name}: {seconds - compiling:.1f} s for {tiles} tiles, and {compiling:.1f} s to "
            "compile",
            flush=True,
        )
        jax.clear_caches()


if __name__ == "__main__":
    main()
