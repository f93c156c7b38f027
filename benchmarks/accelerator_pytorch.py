"""The parts of `benchmarks.accelerator` that measure PyTorch, with the rows of `accelerator_jax`.

The network is that of `pytorch_rendering` with `scaled_dot_product_attention`, in eager mode and
compiled by `torch.compile`. bfloat16 is automatic mixed precision.
"""

import contextlib
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from benchmarks import pytorch_rendering
from benchmarks.accelerator_jax import picture
from benchmarks.accelerator_models import (
    NUMERICS,
    crop_and_batches,
    matrix_side,
    median_seconds,
    numerics_of,
    photograph_size,
    random_pretrained,
    training_batch,
    window_batches,
    windows_of,
)
from benchmarks.pytorch_rendering import fused_block, weights_of
from vitdeblur_jax.checkpoints.pretrained import Pretrained
from vitdeblur_jax.models.vitdeblur.configuration import token_grid
from vitdeblur_jax.models.vitdeblur.position_embedding import resize_position_embedding
from vitdeblur_jax.utils.errors import one_line

Row = dict[str, Any]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# JAX only makes the weights here. On the GPU it would take most of the memory.
jax.config.update("jax_platforms", "cpu")


def pytorch_windows(small: bool, seconds: float) -> Iterator[Row]:
    """Yields the rate of a matrix product, and the time of a batch of windows and a photograph."""
    yield {"case": "PyTorch", "value": torch.__version__}
    yield from _matrix_products(small)
    pretrained = random_pretrained(small)
    tiling, weights = pretrained.model.tiling, _weights(pretrained, pretrained.model.tiling.size)
    eager = functools.partial(pytorch_rendering.features, block=fused_block)
    sides = {"PyTorch eager": eager, "PyTorch compiled": torch.compile(eager, dynamic=False)}
    first, second, *others = window_batches(small)
    cases = itertools.product(sides, (second, first, *others), numerics_of(small))
    for side, batch, name in cases:
        torch.compiler.reset()  # there is a limit to the programs for one function
        features = sides[side]
        work = functools.partial(features, weights, _on_device(windows_of(batch, tiling.size)))
        yield _timed(f"{name}, batch {batch}", side, name, work, count=batch)
        if batch == second:
            pixels = picture(photograph_size(small))
            work = functools.partial(_restored, pixels, weights, tiling, batch, features)
            row = _timed(f"{name}, array to array", side, name, work, seconds=0, least=3)
            yield {**row, "question": "photograph"}


def _restored(pixels: np.ndarray, weights, tiling, batch: int, features) -> np.ndarray:
    """Returns the restored image, `(height, width, 3)`; both uint16."""
    image = _on_device(pixels[None].astype(np.float32) / 65535)[0]
    options = {"window": tiling.size, "stride": tiling.stride, "batch": batch}
    restored = pytorch_rendering.restore(weights, image, features=features, **options)
    scaled = (restored.float().clamp(0, 1) * 65535).round().cpu().numpy()
    return scaled[::-1].transpose(1, 2, 0).astype(np.uint16)


def _matrix_products(small: bool) -> Iterator[Row]:
    side = matrix_side(small)
    for name, numerics in NUMERICS.items():
        one = torch.randn(side, side, device=DEVICE, dtype=getattr(torch, numerics["dtype"]))
        work = functools.partial(torch.matmul, one, one)
        yield {**_timed(f"matrix product, {name}", "PyTorch", name, work), "flops": 2 * side**3}


def pytorch_training(small: bool, seconds: float) -> Iterator[Row]:
    """Yields the time and memory of training steps."""
    crop, batches = crop_and_batches(small)
    weights = _weights(random_pretrained(small), crop)
    recomputed = functools.partial(checkpoint, fused_block, use_reentrant=False)
    kept_loss, recomputing_loss = (
        functools.partial(pytorch_rendering.training_loss, block=block)
        for block in (fused_block, recomputed)
    )
    ways = (
        ("kept", "PyTorch eager", kept_loss, batches),
        ("recomputed", "PyTorch eager", recomputing_loss, batches),
        ("kept", "PyTorch compiled", torch.compile(kept_loss, dynamic=False), batches[-2:]),
    )
    for kept, side, loss, sizes in ways:
        for batch in sizes:
            case = f"bfloat16, {kept}, batch {batch}"
            row = {"case": case, "side": side, "numerics": "bfloat16", "count": 1}
            try:
                yield {**row, **_steps(weights, loss, training_batch(batch, crop))}
            except Exception as error:  # for example, no memory
                yield {**row, "error": one_line(error)}


def _steps(weights, loss_of, batch: dict[str, np.ndarray]) -> Row:
    weights = {name: weight.clone() for name, weight in weights.items()}
    trained = pytorch_rendering.trainable(weights)
    optimizer = torch.optim.AdamW(trained, lr=2e-4, fused=DEVICE == "cuda")
    images = [_on_device(pixels.astype(np.float32) / 255) for pixels in batch.values()]

    def step():
        optimizer.zero_grad()
        with torch.autocast(DEVICE, torch.bfloat16):
            loss = loss_of(weights, *images)
        loss.backward()
        optimizer.step()
        return loss

    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    first = step().item()
    taken = median_seconds(step, _wait, seconds=1.5)
    memory = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else None
    return {"seconds": taken, "memory": memory, "loss": first}


def _weights(pretrained: Pretrained, side: int) -> dict[str, torch.Tensor]:
    """Returns the weights on the device, with the position table of images of `side` pixels."""
    grid = token_grid(side, 16, 10)
    table = pretrained.variables["position_embedding"]["tokenizer"]["table"]
    return weights_of(pretrained, resize_position_embedding(table, grid, grid), DEVICE)


def _on_device(images: np.ndarray) -> torch.Tensor:
    """Returns RGB images, channels last, as BGR, channels first, on the device."""
    return torch.tensor(images[..., ::-1].transpose(0, 3, 1, 2).copy(), device=DEVICE)


def _timed(case, side, name, work, count=1, **settings) -> Row:
    row = {"case": case, "side": side, "numerics": name, "count": count}
    try:
        with _numerics(name), torch.inference_mode():
            return {**row, "seconds": median_seconds(work, _wait, **settings)}
    except Exception as error:  # for example, no memory
        return {**row, "error": one_line(error)}


def _wait(_) -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


@contextlib.contextmanager
def _numerics(name: str) -> Iterator[None]:
    torch.set_float32_matmul_precision("highest" if name == "float32" else "high")
    torch.backends.cudnn.allow_tf32 = name != "float32"
    with torch.autocast(DEVICE, torch.bfloat16, enabled=name == "bfloat16"):
        yield
