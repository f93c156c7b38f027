"""Seconds of the base model per window and per image of 1008 x 688: JAX against PyTorch.

    python -m benchmarks.speed [--image]

Both run in one process, on the CPU, with the same random weights. A window is measured in float32
and in bfloat16 (PyTorch's automatic mixed precision), and the outputs are compared. Prints seconds
and their ratio. Needs PyTorch in addition to the package's own requirements.
"""

import argparse
import functools
import time

import jax
import numpy as np
import torch

from benchmarks import pytorch_rendering
from benchmarks.random_model import random_base_model
from vitdeblur_jax.inference.deblurring import deblur
from vitdeblur_jax.inference.restoration import window_features
from vitdeblur_jax.models.network import with_numerics
from vitdeblur_jax.models.vitdeblur.position_embedding import resize_position_embedding


def shortest_time(work, runs: int) -> float:
    """Returns the shortest time of `runs` runs, seconds."""
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def compare(what: str, ours, theirs, runs: int) -> None:
    """Prints the times of both and their ratio."""
    seconds, reference = shortest_time(ours, runs), shortest_time(theirs, runs)
    print(f"{what}: ours {seconds:.2f} s, PyTorch {reference:.2f} s, {reference / seconds:.2f} x")


@torch.inference_mode()
def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--image", action="store_true", help="also measure the whole image")
    options = parser.parse_args()
    pretrained = random_base_model()
    table = pretrained.variables["position_embedding"]["tokenizer"]["table"]
    position = resize_position_embedding(table, 31, 31)
    weights = pytorch_rendering.weights_of(pretrained, position)
    image = np.random.default_rng(0).random((688, 1008, 3), np.float32)
    bgr = torch.tensor(image[..., ::-1].transpose(2, 0, 1).copy())

    def ours(dtype):
        model = with_numerics(pretrained.model, dtype=dtype)
        maps = window_features(model, pretrained.variables, image[None, :320, :320])
        return np.asarray(jax.block_until_ready(maps))[0].transpose(2, 0, 1)

    def theirs(dtype):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            maps = pytorch_rendering.features(weights, bgr[None, :, :320, :320])
        return maps[0].float().numpy()

    for dtype in "float32", "bfloat16":
        of_window = [functools.partial(side, dtype) for side in (ours, theirs)]
        difference = np.abs(of_window[0]() - of_window[1]()).max()
        print(f"{dtype}: largest difference of the feature maps: {difference:.1e}")
        # The first run compiles or warms up.
        compare(f"a window in {dtype}", *of_window, runs=4)
    if options.image:
        compare(
            "an image of 1008 x 688",
            lambda: deblur(image, pretrained),
            lambda: pytorch_rendering.restore(weights, bgr),
            runs=1,
        )


if __name__ == "__main__":
    main()
