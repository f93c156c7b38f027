"""The parts of `benchmarks.accelerator` that measure this package.

Each part is a generator of rows. A row has `case`, and what was measured; see
`benchmarks.accelerator_tables` for the keys.
"""

import concurrent.futures
import dataclasses
import functools
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator_models import (
    NUMERICS,
    make_model,
    matrix_side,
    median_seconds,
    numerics_of,
    photograph_size,
    random_pretrained,
    window_batches,
    windows_of,
)
from benchmarks.flops import count_flops
from vitdeblur_jax.utils.errors import one_line

Row = dict[str, Any]
_ROOT = Path(__file__).parents[1]
SHARP_IMAGES = _ROOT / "examples/images/sharp"


def device(small: bool, seconds: float) -> Iterator[Row]:
    """Yields the device, its driver, the versions, and the rate of a matrix product."""
    import flax
    import jaxlib
    import optax

    first = jax.devices()[0]
    found = {
        "device": f"{len(jax.devices())} x {first.device_kind} ({first.platform})",
        "driver": _first_line(
            "nvidia-smi",
            "--query-gpu=name,driver_version,memory.total,power.limit",
            "--format=csv,noheader",
        ),
        "platform": " ".join(first.client.platform_version.split()),
        "host": f"{platform.machine()}, {os.cpu_count()} cores",
        "Python": platform.python_version(),
        **{module.__name__: module.__version__ for module in (jax, jaxlib, flax, optax, np)},
        "commit": _first_line("git", "-C", str(_ROOT), "rev-parse", "HEAD"),
    }
    for name, value in found.items():
        yield {"case": name, "value": value}
    side = matrix_side(small)
    for name, numerics in NUMERICS.items():
        one = jax.random.normal(jax.random.key(0), (side, side), numerics["dtype"])
        product = jax.jit(functools.partial(jnp.matmul, precision=numerics["precision"]))
        work = functools.partial(product, one, one)
        taken = median_seconds(work, jax.block_until_ready)
        yield {
            "case": f"matrix product, {name}",
            "numerics": name,
            "flops": 2 * side**3,
            "seconds": taken,
        }


def _first_line(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return f"unknown: there is no {command[0]}"
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    return (done.stdout or done.stderr or "unknown").strip().splitlines()[0]


def parity(small: bool, seconds: float) -> Iterator[Row]:
    """Yields the differences from golden outputs of the PyTorch code, with stand-in weights."""
    from tests.golden_stages import STAGES, stage_differences
    from tests.stand_in_weights import reference_state_dict
    from vitdeblur_jax import create, deblur
    from vitdeblur_jax.checkpoints.pretrained import Pretrained, on_local_devices
    from vitdeblur_jax.checkpoints.recognition import variables_from_published

    golden = dict(np.load(_ROOT / "tests/data/evaluation_seed0.npz"))
    plain = create("base")
    variables, _ = variables_from_published(reference_state_dict(0), plain, "stand-in")
    pretrained = on_local_devices(Pretrained(plain, variables, "stand-in"))
    for name in list(NUMERICS)[: 1 if small else None]:
        model = create("base", **NUMERICS[name])
        stages = STAGES[:1] if small else STAGES
        found = stage_differences(model, pretrained.variables, golden, stages)
        for stage, difference in found.items():
            yield {"case": stage, "numerics": name, "difference": difference}
        if small:
            return
        image = golden["image_rgb"].astype(np.float32) / 255
        restored = deblur(image, dataclasses.replace(pretrained, model=model))
        apart = np.abs(restored - golden["restored_rgb"])
        yield {"case": "image of 414 x 508", "numerics": name, "difference": float(apart.max())}
        yield {"case": "its mean difference", "numerics": name, "difference": float(apart.mean())}


def compiled_together(lowered: dict[Any, Any]) -> dict[Any, Callable | Exception]:
    """Compiles programs at the same time; a program that fails gives its exception."""

    def compiled(program):
        try:
            return program.compile()
        except Exception as error:  # too large for the device, for example
            return error

    with concurrent.futures.ThreadPoolExecutor(len(lowered)) as pool:
        return dict(zip(lowered, pool.map(compiled, lowered.values()), strict=True))


def flops_of_window(model, variables: dict) -> int:
    """Returns the additions and multiplications of the products for one window.

    They are counted in float32: in bfloat16, attention is one kernel whose products do not show.
    """
    from vitdeblur_jax.inference.restoration import window_features

    window = jax.ShapeDtypeStruct((1, model.tiling.size, model.tiling.size, 3), jnp.float32)
    return count_flops(window_features.trace(model, variables, window).jaxpr, "cuda").total()


def windows(small: bool, seconds: float) -> Iterator[Row]:
    """Yields the time of a batch of windows."""
    from vitdeblur_jax.checkpoints.pretrained import on_local_devices
    from vitdeblur_jax.inference.restoration import window_features

    pretrained = on_local_devices(random_pretrained(small))
    variables, side = pretrained.variables, pretrained.model.tiling.size
    flops = flops_of_window(pretrained.model, variables)
    for name in numerics_of(small):
        model = make_model(small, name)
        batches = {n: jnp.asarray(windows_of(n, side)) for n in window_batches(small)}
        lowered = {n: window_features.lower(model, variables, x) for n, x in batches.items()}
        for batch, run in compiled_together(lowered).items():
            row = {"case": f"{name}, batch {batch}", "numerics": name, "count": batch}
            work = functools.partial(run, variables, batches[batch]) if callable(run) else run
            yield timed(row, work, batch * flops)


def timed(row: Row, work: Callable | Exception, flops: int, **settings) -> Row:
    """Returns the row with the time of the work, or why there is none."""
    if isinstance(work, Exception):
        return {**row, "error": one_line(work)}
    try:
        taken = median_seconds(work, jax.block_until_ready, **settings)
    except Exception as error:
        return {**row, "error": one_line(error)}
    return {**row, "seconds": taken, "flops": flops}


def photograph(small: bool, seconds: float) -> Iterator[Row]:
    """Yields the time of a photograph, from array to array and from file to file."""
    from vitdeblur_jax import deblur
    from vitdeblur_jax.checkpoints.pretrained import on_local_devices
    from vitdeblur_jax.inference.chosen_tiling import count_tiles

    pretrained = on_local_devices(random_pretrained(small))
    pixels = picture(photograph_size(small))
    flops = count_tiles(pretrained.model, *pixels.shape[:2]) * flops_of_window(
        pretrained.model, pretrained.variables
    )
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "given.png"
        for name in numerics_of(small):
            loaded = dataclasses.replace(pretrained, model=make_model(small, name))
            for way, work in {
                "array to array": functools.partial(deblur, pixels, loaded),
                "file to file": functools.partial(_through_files, given, pixels, loaded),
            }.items():
                row = {"case": f"{name}, {way}", "numerics": name, "count": 1}
                yield timed(row, work, flops, seconds=0, least=3)


def picture(size: tuple[int, int]) -> np.ndarray:
    """Returns a photograph of this height and width, `(height, width, 3)` uint16."""
    from PIL import Image

    with Image.open(SHARP_IMAGES / "building.jpg") as image:
        resized = image.convert("RGB").resize(size[::-1], Image.Resampling.BICUBIC)
    return np.asarray(resized, np.uint16) * np.uint16(257)


def _through_files(given: Path, pixels: np.ndarray, pretrained) -> None:
    """Restores a PNG file; the first call, which is not timed, writes it."""
    from vitdeblur_jax import deblur
    from vitdeblur_jax.data.image_io import DecodedImage, read_image, write_image

    if not given.exists():
        write_image(DecodedImage(pixels), given)
    read = read_image(given)
    restored = dataclasses.replace(read, pixels=deblur(read.pixels, pretrained))
    write_image(restored, given.with_name("restored.png"), overwrite=True)
