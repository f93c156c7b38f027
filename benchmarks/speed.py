"""Seconds a window, and a photograph of 1008 x 688, of the base model: ours against PyTorch's.

    python -m benchmarks.speed [--photograph]

Both run in this one process, float32, on the CPU, with the same random weights; the outputs are
compared too. Needs PyTorch beside the package's own requirements. Prints seconds and their ratio.
"""

import argparse
import time

import jax
import numpy as np
import torch

from benchmarks import pytorch_rendering
from benchmarks.random_model import random_base_model
from vitdeblur_jax.deblurring import deblur
from vitdeblur_jax.models.position_embedding import resize_position_embedding
from vitdeblur_jax.restoration import window_features


def shortest_time(work, runs: int) -> float:
    """Returns the shortest of `runs` runs, seconds."""
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def compare(what: str, ours, theirs, runs: int) -> None:
    """Prints the seconds of both and their ratio."""
    seconds, reference = shortest_time(ours, runs), shortest_time(theirs, runs)
    print(f"{what}: ours {seconds:.2f} s, PyTorch {reference:.2f} s, {reference / seconds:.2f} x")


@torch.inference_mode()
def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photograph", action="store_true", help="the whole photograph too")
    options = parser.parse_args()
    pretrained = random_base_model()
    table = pretrained.variables["position_embedding"]["tokenizer"]["table"]
    position = resize_position_embedding(table, 31, 31)
    weights = pytorch_rendering.weights_of(pretrained, position)
    image = np.random.default_rng(0).random((688, 1008, 3), np.float32)
    bgr = torch.tensor(image[..., ::-1].transpose(2, 0, 1).copy())

    def ours():
        window = image[None, :320, :320]
        maps = window_features(pretrained.model, pretrained.variables, window)
        return np.asarray(jax.block_until_ready(maps))[0].transpose(2, 0, 1)

    def theirs():
        return pytorch_rendering.features(weights, bgr[None, :, :320, :320])[0].numpy()

    print(f"largest difference of the feature maps: {np.abs(ours() - theirs()).max():.1e}")
    # The first of the runs compiles or warms up.
    compare("a window", ours, theirs, runs=4)
    if options.photograph:
        compare(
            "a photograph of 1008 x 688",
            lambda: deblur(image, pretrained),
            lambda: pytorch_rendering.restore(weights, bgr),
            runs=1,
        )


if __name__ == "__main__":
    main()
