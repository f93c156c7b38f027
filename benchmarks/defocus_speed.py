"""Speed of synthetic defocus: NumPy on the host against JAX on the device.

    python -m benchmarks.defocus_speed [--workers 2] [--seconds 15] [--rounds 3]

First the seconds to defocus a training crop of two scenes: the NumPy renderer on one core, and the
jitted one on JAX's device. Then the crops per second of whole training batches from 8 images of
1680 x 1120 (PNG files from scikit-image's photographs): with worker processes, and from images in
device memory. Both sides take turns; the result is the median of the rounds. Last the processor
time per crop, which other work on the machine changes less; on a GPU it tells nothing of the
device. Compilation is not measured.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jax
import numpy as np
import skimage.data
from PIL import Image

from vitdeblur_jax.data.defocus import apertures, thin_lens
from vitdeblur_jax.data.defocus.on_device.apertures import disk
from vitdeblur_jax.data.defocus.on_device.thin_lens import defocus
from vitdeblur_jax.data.defocus.settings import SynthesisSettings
from vitdeblur_jax.data.device_synthesis import (
    Recipe,
    place_images,
    scene_shape,
    synthetic_device_batches,
)
from vitdeblur_jax.data.image_io import list_images
from vitdeblur_jax.data.input_pipeline import make_train_dataset, mixed_indices
from vitdeblur_jax.data.sources import SyntheticSource
from vitdeblur_jax.distributed.sharding import batch_sharded, local_mesh

CROP, BATCH, LARGEST = 360, 8, 8.0
IMAGES, WIDTH, HEIGHT = 8, 1680, 1120


def main() -> None:
    """Prints the times and rates, and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"JAX's device: {jax.devices()[0].device_kind}")
    compare_renderers()
    with tempfile.TemporaryDirectory() as folder:
        compare_batches(Path(folder), options)


def compare_renderers() -> None:
    """Prints the seconds for two scenes, and the largest difference."""
    image = np.random.default_rng(0).random((CROP, CROP, 3), np.float32)
    y, x = np.mgrid[:CROP, :CROP].astype(np.float32) / CROP
    scenes = {
        "smooth field": LARGEST * (x + y * (1 - y)) - 2,
        "four layers": np.float32(LARGEST / 2) * (np.floor(2 * x) + np.floor(2 * y) - 1),
    }
    jitted = jax.jit(partial(defocus, largest_radius=LARGEST))
    for name, radius in scenes.items():
        in_numpy = partial(thin_lens.defocus, image, radius, apertures.disk())
        on_device = partial(jitted, *jax.device_put((image, radius)), disk())
        difference = np.abs(in_numpy() - on_device()).max()
        known, ours = seconds_of(in_numpy, lambda call=on_device: call().block_until_ready())
        print(
            f"{name}: NumPy {known:.3f} s, JAX {ours:.4f} s, {known / ours:.1f} times as fast; "
            f"largest difference {difference:.1e}"
        )


def seconds_of(*works: Callable, rounds: int = 9) -> list[float]:
    """Returns the median time of each function; they take turns after a warm-up."""
    times = []
    for _ in range(rounds + 1):
        times.append([])
        for work in works:
            started = time.perf_counter()
            work()
            times[-1].append(time.perf_counter() - started)
    return [statistics.median(column) for column in zip(*times[1:], strict=True)]


def write_images(folder: Path) -> list[Path]:
    """Writes the sharp images."""
    originals = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]
    for number in range(IMAGES):
        image = Image.fromarray(np.roll(originals[number % 3], 97 * number, axis=1))
        image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).save(folder / f"{number}.png")
    return list_images(folder)


def host_batches(images: list[Path], workers: int) -> Iterator:
    """Returns the batches that worker processes make."""
    source = SyntheticSource(images, SynthesisSettings(), 0, crop=CROP)
    return make_train_dataset([source], seed=0, batch_size=BATCH, crop=CROP, workers=workers)


def device_batches(images: list[Path]) -> Iterator:
    """Returns the batches that the device computes."""
    mesh = local_mesh()
    placed, smallest = place_images(images, mesh)
    recipe = Recipe(SynthesisSettings(), 0, CROP, scene_shape(smallest, CROP))
    order = mixed_indices([len(images)], None, 0)
    return synthetic_device_batches(placed, order, recipe, BATCH, batch_sharded(mesh))


def rate(batches: Iterator, seconds: float) -> float:
    """Returns crops per second, after a warm-up of two batches."""
    for batch in itertools.islice(batches, 2):
        jax.block_until_ready(batch)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        jax.block_until_ready(next(batches))
        count += BATCH
    return count / (time.perf_counter() - started)


def processor_seconds(make: Callable, batches: int = 6) -> float:
    """Returns the processor time per crop of a function of the number of a batch."""
    jax.block_until_ready(make(0))
    started = time.process_time()
    for number in range(1, 1 + batches):
        jax.block_until_ready(make(number))
    return (time.process_time() - started) / (batches * BATCH)


def compare_batches(folder: Path, options: argparse.Namespace) -> None:
    """Prints the crops per second of both pipelines."""
    images = write_images(folder)
    on_device = device_batches(images)
    rates = {"host": [], "device": []}
    for _ in range(options.rounds):
        batches = host_batches(images, options.workers)
        rates["host"].append(rate(batches, options.seconds))
        batches.close()
        rates["device"].append(rate(on_device, options.seconds))
    host, device = (statistics.median(taken) for taken in rates.values())
    print(
        f"batches: {host:.1f} crops per second with {options.workers} workers, {device:.1f} on the "
        f"device, {device / host:.2f} times as many"
    )
    busy = [
        processor_seconds(host_batches(images, 0).batches.__getitem__),
        processor_seconds(lambda _: next(on_device)),
    ]
    print(f"processor time per crop: host {busy[0]:.3f} s, device's process {busy[1]:.3f} s")
    for name, taken in rates.items():
        print(f"{name}, rounds: {', '.join(f'{one:.1f}' for one in taken)}")


if __name__ == "__main__":
    main()
