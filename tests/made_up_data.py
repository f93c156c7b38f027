"""Small made-up data sets, in the layouts that the real ones have on disk."""

from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np

SMALL = (20, 24)  # height, width


def random_image(seed: int, size: tuple[int, int] = SMALL, bits: int = 8) -> np.ndarray:
    """Random pixels, so that no two images are alike."""
    rng = np.random.default_rng(seed)
    return rng.integers(2**bits, size=(*size, 3), dtype=np.uint16).astype(f"uint{bits}")


def write(path: Path, seed: int, size: tuple[int, int] = SMALL, bits: int = 8) -> np.ndarray:
    """Writes a random image as PNG; returns its pixels."""
    pixels = random_image(seed, size, bits)
    write_png(path, pixels)
    return pixels


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Writes pixels of 8 or 16 bits, in a folder that is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Random pixels don't get smaller by compression.
    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels), level=0))


def dpdd(
    root: Path,
    bits: int = 8,
    size: tuple[int, int] = SMALL,
    counts: dict[str, int] | None = None,
) -> dict[str, int]:
    """DPDD as its authors give it: the numbers of source and target differ."""
    counts = counts or {"train": 3, "val": 2, "test": 2}
    for number, (split, count) in enumerate(counts.items()):
        for i in range(count):
            seed = 1000 * number + 10 * i
            for view, suffix in (("c", ""), ("l", "_L"), ("r", "_R")):
                name = f"1P0A{100 + 2 * i:04}{suffix}.png"
                write(root / f"{split}_{view}/source" / name, seed + ord(view) % 7, size, bits)
            write(root / f"{split}_c/target/1P0A{101 + 2 * i:04}.png", seed + 9, size, bits)
    return counts


def realdof(root: Path) -> dict[str, int]:
    for i in range(3):
        write(root / f"source/{i + 1:02}.png", 2 * i)
        write(root / f"target/{i + 1:02}.png", 2 * i + 1)
    return {"test": 3}


def lfdof(root: Path) -> dict[str, int]:
    """Two scenes of three images and one of two share a ground truth each."""
    for split, first in (("train", 0), ("test", 5)):
        for scene, count in ((first, 3), (first + 1, 2)):
            base, name = root / f"{split}_data", f"IMG_{scene:04}"
            for i in range(count):
                write(base / f"input/{name}/{name}_ap1_0{i}.png", 10 * scene + i)
            write(base / f"ground_truth/{name}.png", 10 * scene + 9)
    return {"train": 5, "test": 5}


def cuhk(root: Path) -> dict[str, int]:
    for i in range(3):
        write(root / f"out_of_focus{i:04}.png", i)
    return {"test": 3}


def pixeldp(root: Path, bits: int = 8) -> dict[str, int]:
    for i in range(2):
        for number, view in enumerate("clr"):
            write(root / f"test_{view}/source/{i:02}.png", 3 * i + number, bits=bits)
    return {"test": 2}


def pairs(
    root: Path, bits: int = 8, count: int = 3, size: tuple[int, int] = SMALL
) -> dict[str, int]:
    for i in range(count):
        write(root / f"blurred/photo{i:03}.png", 2 * i, size, bits)
        write(root / f"sharp/photo{i:03}.png", 2 * i + 1, size, bits)
    return {"train": count}


def sharp_images(root: Path) -> dict[str, int]:
    for i in range(2):
        write(root / f"sharp{i}.png", i, size=(40, 48))
    return {"train": 2}


DATA_SETS: dict[str, Callable[[Path], dict[str, int]]] = {
    "dpdd": dpdd,
    "realdof": realdof,
    "lfdof": lfdof,
    "cuhk": cuhk,
    "pixeldp": pixeldp,
    "paired_folder": pairs,
    "synthetic_defocus": sharp_images,
}
