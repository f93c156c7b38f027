"""The models, numerics and timing that both sides of `benchmarks.accelerator` share."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

# On a GPU, "high" is TensorFloat-32: `jax.default_matmul_precision("tensorfloat32")` sets the same
# value, but only for products that name no precision, and this package's products name theirs.
NUMERICS = {
    "float32": {"dtype": "float32", "precision": "highest"},
    "TF32": {"dtype": "float32", "precision": "high"},
    "bfloat16": {"dtype": "bfloat16", "precision": "default"},
}
_SMALL = {
    "primary_encoder": {"width": 48, "depth": 1},
    "contextual_encoder": {"depth": 1},
    "decoder": {"width": 64, "depth": 1},
    "tokenizer": {"position_grid": 6},
    "window": 60,
    "stride": 34,
}
_QUEUED = 0.05  # seconds; shorter calls are queued, so that the host's overhead is hidden


def numerics_of(small: bool) -> dict[str, dict[str, str]]:
    """Returns the numerics to measure, the fastest first."""
    names = ["bfloat16"] if small else reversed(NUMERICS)
    return {name: NUMERICS[name] for name in names}


def matrix_side(small: bool) -> int:
    """Returns the side of the square matrices whose product gives the limit."""
    return 256 if small else 8192


def window_batches(small: bool) -> tuple[int, ...]:
    """Returns the batch sizes of windows."""
    return (1, 2) if small else (1, 8, 32)


def crop_and_batches(small: bool) -> tuple[int, tuple[int, ...]]:
    """Returns the side of a training crop, in pixels, and the batch sizes of training."""
    return (70, (2,)) if small else (360, (2, 8, 16))


def photograph_size(small: bool) -> tuple[int, int]:
    """Returns the height and width of a photograph: that of DPDD's images, or a small one."""
    return (90, 120) if small else (1120, 1680)


def make_model(small: bool, numerics: str = "float32", **overrides: Any):
    """Returns the base model, or a narrow one of depth 1 with a small window."""
    from vitdeblur_jax import create

    return create("base", **(_SMALL if small else {}), **NUMERICS[numerics], **overrides)


def random_pretrained(small: bool):
    """Returns an untrained model in float32 with nonzero contextual features."""
    from benchmarks.random_model import with_random_variables

    return with_random_variables(make_model(small))


def windows_of(batch: int, side: int) -> np.ndarray:
    """Returns `(batch, side, side, 3)` random windows in [0, 1]."""
    return np.random.default_rng(0).random((batch, side, side, 3), np.float32)


def training_batch(batch: int, crop: int) -> dict[str, np.ndarray]:
    """Returns `blurred` and `sharp`, `(batch, crop, crop, 3)` random uint8 images."""
    rng, shape = np.random.default_rng(0), (batch, crop, crop, 3)
    return {key: rng.integers(256, size=shape, dtype=np.uint8) for key in ("blurred", "sharp")}


def median_seconds(
    work: Callable[[], Any], wait: Callable[[Any], Any], *, seconds: float = 1.0, least: int = 5
) -> float:
    """Returns the median time of a call.

    Two calls come before, to compile and to warm up.

    Args:
      work: The call; it may return before its result is computed.
      wait: Waits for the result of `work`.
      seconds: Time after which no further repetition begins.
      least: Number of repetitions at least.
    """
    wait(work())
    started = time.perf_counter()
    wait(work())
    once = max(time.perf_counter() - started, 1e-6)
    calls = min(100, max(1, round(_QUEUED / once)))
    times, began = [], time.perf_counter()
    while len(times) < least or (time.perf_counter() - began < seconds and len(times) < 50):
        started = time.perf_counter()
        for _ in range(calls):
            result = work()
        wait(result)
        times.append((time.perf_counter() - started) / calls)
    return statistics.median(times)
