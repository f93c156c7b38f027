"""Seconds to score a folder of images, and of each metric, against scikit-image.

    python -m benchmarks.scoring [--pairs 76] [--width 1680] [--height 1120] [--theirs 8]

Creates pairs of PNG files from scikit-image's images, blurred and with sensor noise; by default
their number and size are those of DPDD. `vitdeblur score` measures all of them with PSNR, SSIM and
MAE. A loop over scikit-image's functions, as in the scripts of papers, measures `--theirs` of them.
Both times are per pair. Memory is the increase of the process at its peak, for a quarter of the
pairs and for all. Then each compiled metric is timed on one pair, the median of five calls. pyiqa
and the PyTorch package `lpips` are included if they are installed. Linux only: it reads the
high-water mark from /proc.
"""

import argparse
import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import skimage.data
import skimage.io
from PIL import Image
from scipy import ndimage
from skimage import metrics as theirs

from benchmarks.process_memory import begin_high_water_mark, memory
from vitdeblur_jax.evaluation.measure import measuring
from vitdeblur_jax.evaluation.score import Method, score
from vitdeblur_jax.metrics import DEFAULT, METRICS
from vitdeblur_jax.utils.table import format_number, format_table

GAUSSIAN = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
Measure = Callable[[np.ndarray, np.ndarray], object]


def their_psnr(image: np.ndarray, reference: np.ndarray) -> float:
    """Returns scikit-image's PSNR."""
    return theirs.peak_signal_noise_ratio(reference, image, data_range=1)


def their_ssim(image: np.ndarray, reference: np.ndarray, **options) -> float:
    """Returns scikit-image's SSIM."""
    return theirs.structural_similarity(reference, image, data_range=1, channel_axis=-1, **options)


def their_mae(image: np.ndarray, reference: np.ndarray) -> float:
    """Returns the mean absolute error, computed with NumPy."""
    return np.abs(image - reference).mean()


def their_functions() -> dict[str, tuple[str, Measure]]:
    """Returns the package and function that each of our metrics is compared with."""
    functions = {
        "psnr": ("scikit-image", their_psnr),
        "ssim": ("scikit-image", their_ssim),
        "mae": ("NumPy", their_mae),
        "ssim_gaussian": ("scikit-image", lambda *pair: their_ssim(*pair, **GAUSSIAN)),
    }
    if importlib.util.find_spec("pyiqa"):
        import pyiqa

        named = {"ssim_luminance": "ssim", "fsimc": "fsim", "musiq": "musiq", "ckdn": "ckdn"}
        for ours, name in named.items():
            try:
                functions[ours] = ("pyiqa", on_torch(pyiqa.create_metric(name, device="cpu")))
            except OSError:  # its weights cannot be downloaded
                print(f"pyiqa's {name} is skipped: no weights")
    if importlib.util.find_spec("lpips"):
        import lpips

        for net in ("alex", "vgg", "squeeze"):
            network = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
            functions[f"lpips_{net}"] = ("lpips", on_torch(network))
    return functions


def on_torch(metric) -> Measure:
    """Wraps a PyTorch metric as a function of NumPy arrays."""
    import torch

    def measure(*pair):
        with torch.no_grad():
            tensors = (torch.from_numpy(x.astype(np.float32)).permute(2, 0, 1) for x in pair)
            return metric(*(tensor[None] for tensor in tensors))

    return measure


def write_pairs(root: Path, count: int, width: int, height: int) -> None:
    """Writes pairs in the layout `pairs`."""
    originals = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]
    rng = np.random.default_rng(0)
    for folder in ("input", "target"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        large = Image.fromarray(originals[number % 3]).resize((width, height))
        sharp = np.roll(np.asarray(large, np.float32), 97 * number, axis=1)
        for folder, image in (
            ("input", ndimage.uniform_filter(sharp, (9, 9, 0))),
            ("target", sharp),
        ):
            noisy = np.clip(image + rng.normal(0, 1.5, image.shape), 0, 255).astype(np.uint8)
            path = root / folder / f"{number:02}.png"
            path.write_bytes(imagecodecs.png_encode(noisy, level=6))


def score_with_scikit_image(root: Path, count: int) -> np.ndarray:
    """Returns PSNR, SSIM and MAE of the first pairs."""
    figures = []
    for path in sorted((root / "input").iterdir())[:count]:
        paths = (path, root / "target" / path.name)
        pair = [skimage.util.img_as_float64(skimage.io.imread(one)) for one in paths]
        figures.append([measure(*pair) for measure in (their_psnr, their_ssim, their_mae)])
    return np.array(figures)


def compare_folders(root: Path, count: int, their_count: int) -> None:
    """Prints time and memory of scoring a folder."""
    methods = [Method("input", root / "input")]
    score(root, "pairs", methods)  # compiles
    peaks = {}
    for pairs in (count // 4, count):
        part = root.parent / f"part{pairs}"
        for folder in ("input", "target"):
            (part / folder).mkdir(parents=True)
            for path in sorted((root / folder).iterdir())[:pairs]:
                (part / folder / path.name).symlink_to(path)
        before = memory("VmRSS")
        begin_high_water_mark()
        started = time.perf_counter()
        scores = score(part, "pairs", [Method("input", part / "input")])
        seconds = time.perf_counter() - started
        peaks[pairs] = (memory("VmHWM") - before) / 1e6
    started = time.perf_counter()
    expected = score_with_scikit_image(root, their_count)
    their_seconds = (time.perf_counter() - started) / their_count
    records = list(scores["methods"][0]["images"].values())[:their_count]
    ours = np.array([[record["metrics"][metric] for metric in DEFAULT] for record in records])
    print(f"{count} pairs: {seconds:.1f} s, {seconds / count:.2f} s per pair")
    print(f"scikit-image: {their_seconds:.2f} s per pair, {their_seconds * count / seconds:.1f} x")
    print(f"largest difference of a metric: {np.abs(ours - expected).max():.1e}")
    print("; ".join(f"{pairs} pairs add {peak:.0f} MB" for pairs, peak in peaks.items()), "\n")


def seconds_of(measure: Measure, pair: tuple[np.ndarray, np.ndarray]) -> float:
    """Returns the median time of five calls after a warm-up call, seconds."""
    taken = []
    for _ in range(6):
        started = time.perf_counter()
        measure(*pair)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def compare_metrics(root: Path) -> None:
    """Prints the time of each metric on one pair."""
    path = min((root / "input").iterdir())
    paths = (path, root / "target" / path.name)
    pair = tuple(imagecodecs.png_decode(one.read_bytes()) / 255 for one in paths)
    functions, rows = their_functions(), []
    for name in METRICS:
        measure, _, left_out = measuring([name])
        if left_out:
            print(left_out[0])
            continue
        ours = seconds_of(measure, pair)
        whose, function = functions.get(name, ("-", None))
        other = seconds_of(function, pair) if function else None
        ratio = "-" if other is None else f"{other / ours:.1f} x"
        rows.append((name, format_number(ours, 3), format_number(other, 3), whose, ratio))
    print(format_table(("metric", "seconds", "theirs", "whose", "theirs / ours"), rows))


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=76)
    parser.add_argument("--width", type=int, default=1680)
    parser.add_argument("--height", type=int, default=1120)
    parser.add_argument("--theirs", type=int, default=8, help="pairs that scikit-image scores")
    options = parser.parse_args()
    print(f"{options.width} x {options.height}, {os.cpu_count()} processors")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "pairs"
        write_pairs(root, options.pairs, options.width, options.height)
        compare_folders(root, options.pairs, options.theirs)
        compare_metrics(root)


if __name__ == "__main__":
    main()
