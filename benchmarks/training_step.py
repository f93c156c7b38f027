r"""Seconds and peak memory of one training step of the base model: JAX against PyTorch.

    python -m benchmarks.training_step

The step has batch size 2, crop 360, the published objective and AdamW, on the CPU. Both sides run
in float32 and in bfloat16 (PyTorch's automatic mixed precision; parameters remain float32), with
all activations kept and with each transformer block recomputed in the backward pass (`remat`,
`torch.utils.checkpoint`). Speed and memory are relative to PyTorch in the same precision with all
activations kept.

Each case runs in its own process, with the same weights and images. The first losses must agree up
to the precision. The time is the shortest of the steps in 15 seconds after the first step, in which
JAX compiles. Memory is the high-water mark of the process. Needs Linux, 12 GB of memory, and
PyTorch in addition to the package's own requirements. Takes about 8 minutes on two idle cores.
"""

import functools
import itertools
import multiprocessing
import time

import numpy as np

from benchmarks.process_memory import begin_high_water_mark, memory
from vitdeblur_jax.utils.table import format_table

SECONDS = 15  # of measured steps, at least
HEADER = ("", "seconds per step", "peak memory", "first loss", "relative speed", "relative memory")


def main() -> None:
    """Prints a line for each precision, mode and side, and then all of them as a table."""
    context = multiprocessing.get_context("spawn")
    sides = {"PyTorch": theirs, "ours": ours}
    modes = {"kept": False, "recomputed": True}
    rows, references = [], {}
    for dtype, mode, side in itertools.product(("float32", "bfloat16"), modes, sides):
        case = f"{side}, {dtype}, {mode}"
        with context.Pool(1) as pool:
            loss, seconds, peak = pool.apply(sides[side], (dtype, modes[mode]))
        whole, most = references.setdefault(dtype, (seconds, peak))
        figures = f"{seconds:.1f}", f"{peak:.2f} GB", f"{loss:.6f}"
        rows.append((case, *figures, f"{whole / seconds:.2f}", f"{peak / most:.2f}"))
        print(*rows[-1], flush=True)
    print(format_table(HEADER, rows))


def ours(dtype: str, remat: bool) -> tuple[float, float, float]:
    """Returns the first loss, seconds per step and peak memory in GB of the JAX step."""
    import jax

    from benchmarks.random_model import random_base_model
    from vitdeblur_jax.distributed.sharding import local_mesh, state_sharding
    from vitdeblur_jax.models import create_network
    from vitdeblur_jax.training.defaults import default_config
    from vitdeblur_jax.training.preparation import prepare

    config = default_config("base")
    config.batch_size = 2
    config.numerics.update(dtype=dtype, remat=remat)
    mesh = local_mesh()
    run = prepare(config, create_network(config), mesh)
    state = jax.jit(run.create)(random_base_model().variables)
    state = jax.device_put(state, state_sharding(mesh, state))
    batch = {key: jax.numpy.asarray(pixels) for key, pixels in _batch().items()}

    def step():
        nonlocal state
        state, metrics = run.train_step(state, batch)
        return float(metrics["loss"])

    return _measure(step)


def theirs(dtype: str, remat: bool) -> tuple[float, float, float]:
    """Returns first loss, seconds per step and peak memory in GB of the PyTorch step."""
    import torch
    import torch.utils.checkpoint

    from benchmarks import pytorch_rendering
    from benchmarks.random_model import random_base_model

    pretrained = random_base_model()
    table = pretrained.variables["position_embedding"]["tokenizer"]["table"]
    weights = pytorch_rendering.weights_of(pretrained, table)
    del pretrained
    optimizer = torch.optim.AdamW(pytorch_rendering.trainable(weights), lr=2e-4)
    images = [
        torch.tensor(pixels[..., ::-1].transpose(0, 3, 1, 2).copy()).float() / 255
        for pixels in _batch().values()
    ]
    block = pytorch_rendering.explicit_block
    if remat:
        block = functools.partial(torch.utils.checkpoint.checkpoint, block, use_reentrant=False)

    def step():
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = pytorch_rendering.training_loss(weights, *images, block)
        loss.backward()
        optimizer.step()
        return loss.item()

    return _measure(step)


def _measure(step):
    begin_high_water_mark()
    loss, times = step(), []
    while sum(times) < SECONDS:
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return loss, min(times), memory("VmHWM") / 1e9


def _batch():
    rng = np.random.default_rng(0)
    shape = (2, 360, 360, 3)
    return {key: rng.integers(256, size=shape, dtype=np.uint8) for key in ("blurred", "sharp")}


if __name__ == "__main__":
    main()
