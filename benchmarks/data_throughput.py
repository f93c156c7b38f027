"""Training crops per second: this package's input pipeline against a PyTorch DataLoader.

    python -m benchmarks.data_throughput [--workers 2] [--seconds 15] [--rounds 3]

Creates 8 pairs of PNG files in DPDD's size, 1680 x 1120, from scikit-image's images. Both pipelines
read the same pairs, cut crops of 360 pixels, flip half of them and yield uint8 batches of 8, with
the same number of worker processes. The DataLoader reads with Pillow. The pipelines take turns, and
the result is the median of the rounds. Two more lines measure prepared pairs and synthetic defocus.
Processor time comes from another run without worker processes. Needs PyTorch and scikit-image in
addition to the package's own requirements.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from PIL import Image
from scipy import ndimage
from torch.utils.data import DataLoader, RandomSampler

from vitdeblur_jax.data.defocus.settings import SynthesisSettings
from vitdeblur_jax.data.image_io import list_images
from vitdeblur_jax.data.input_pipeline import make_train_dataset
from vitdeblur_jax.data.layouts import find_pairs
from vitdeblur_jax.data.records.preparation import prepare
from vitdeblur_jax.data.sources import FolderSource, PreparedSource, SyntheticSource

PAIRS, WIDTH, HEIGHT = 8, 1680, 1120
CROP, BATCH, WARM_UP = 360, 8, 4
WANTED = 100  # crops a second


def write_pairs(root: Path) -> None:
    """Writes pairs in the layout `pairs`: enlarged images with a sensor's noise, blurred."""
    originals = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]
    rng = np.random.default_rng(0)
    for folder in ("input", "target"):
        (root / folder).mkdir(parents=True)
    for number in range(PAIRS):
        original = Image.fromarray(originals[number % 3])
        large = original.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
        sharp = np.roll(np.asarray(large, np.float32), 97 * number, axis=1)
        blurred = ndimage.uniform_filter(sharp, (9, 9, 0))
        for folder, image in (("input", blurred), ("target", sharp)):
            noisy = np.clip(image + rng.normal(0, 1.5, image.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(root / folder / f"{number:02d}.png")


class PillowPairs(torch.utils.data.Dataset):
    """A typical PyTorch data set: reads both files, crops and flips."""

    def __init__(self, root: Path):
        self.pairs = [(path, root / "target" / path.name) for path in sorted(root.glob("input/*"))]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        images = [np.asarray(Image.open(path).convert("RGB")) for path in self.pairs[index]]
        top = torch.randint(HEIGHT - CROP + 1, ()).item()
        left = torch.randint(WIDTH - CROP + 1, ()).item()
        step = -1 if torch.rand(()) < 0.5 else 1
        cut = [image[top : top + CROP, left : left + CROP][:, ::step] for image in images]
        return tuple(torch.from_numpy(np.ascontiguousarray(image)) for image in cut)


def pytorch_batches(root: Path, workers: int) -> Iterator:
    """Yields batches without end, and without the pause between two epochs."""
    pairs = PillowPairs(root)
    sampler = RandomSampler(pairs, replacement=True, num_samples=10**7)
    return iter(DataLoader(pairs, BATCH, sampler=sampler, num_workers=workers))


def make_sources(folder: Path) -> dict[str, Any]:
    """Returns the pairs as files, the pairs prepared, and pairs made of the sharp images."""
    prepared = prepare(folder / "pairs", "paired_folder", folder / "prepared")
    images = list_images(folder / "pairs" / "target")
    return {
        "PNG files": FolderSource(find_pairs(folder / "pairs", "pairs")),
        "prepared": PreparedSource(prepared, "train"),
        "synthetic": SyntheticSource(images, SynthesisSettings(), 0, crop=CROP),
    }


def our_batches(source, workers: int):
    """Returns the package's iterator."""
    return make_train_dataset([source], seed=0, batch_size=BATCH, crop=CROP, workers=workers)


def rate(batches: Iterator, seconds: float) -> float:
    """Returns examples a second once the pipeline is full."""
    for _ in range(WARM_UP):
        next(batches)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        next(batches)
        count += BATCH
    return count / (time.perf_counter() - started)


def processor_seconds(source, examples: int) -> float:
    """Returns processor seconds per example, over all threads of a run without workers."""
    batches = our_batches(source, 0).batches
    batches[0]
    started = time.process_time()
    for step in range(1, 1 + examples // BATCH):
        batches[step]
    return (time.process_time() - started) / (examples // BATCH * BATCH)


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), options)


def compare(folder: Path, options: argparse.Namespace) -> None:
    """Measures all sources and prints a line for each."""
    write_pairs(folder / "pairs")
    sizes = [path.stat().st_size for path in folder.glob("pairs/*/*")]
    print(f"{len(sizes)} PNG files of {WIDTH} x {HEIGHT}, {np.mean(sizes) / 1e6:.1f} MB on average")
    print(f"{options.workers} worker processes, {os.cpu_count()} processors")
    sources = make_sources(folder)
    rates = {name: [] for name in ("PyTorch DataLoader", *sources)}
    for _ in range(options.rounds):
        for name, taken in rates.items():
            if name in sources:
                batches = our_batches(sources[name], options.workers)
                taken.append(rate(batches, options.seconds))
                batches.close()
            else:
                batches = pytorch_batches(folder / "pairs", options.workers)
                taken.append(rate(batches, options.seconds))
                del batches
    theirs = statistics.median(next(iter(rates.values())))
    for name, taken in rates.items():
        ours = statistics.median(taken)
        line = f"{name}: {ours:.1f} crops per second, {ours / theirs:.2f} x"
        if name in sources:
            cores = WANTED * processor_seconds(sources[name], examples=64)
            line += f"; {cores:.1f} cores for {WANTED} crops per second"
        print(f"{line} (rounds: {', '.join(f'{one:.1f}' for one in taken)})")


if __name__ == "__main__":
    main()
