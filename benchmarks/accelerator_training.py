"""The parts of `benchmarks.accelerator` that measure training; see `accelerator_jax`."""

import json
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp

from benchmarks.accelerator_jax import SHARP_IMAGES, Row, compiled_together, timed
from benchmarks.accelerator_models import (
    crop_and_batches,
    make_model,
    random_pretrained,
    training_batch,
)
from benchmarks.flops import count_flops
from vitdeblur_jax.utils.errors import one_line

_STARTS_AND_ENDS = 35  # seconds of a run before its first step and after its last


def training(small: bool, seconds: float) -> Iterator[Row]:
    """Yields the time and memory of training steps."""
    crop, batches = crop_and_batches(small)
    variables = random_pretrained(small).variables
    of_one = _flops_of_step(small, crop)
    for remat in (False, True):
        cases = {batch: _training_case(small, crop, batch, remat) for batch in batches}
        programs = compiled_together({batch: case.lowered for batch, case in cases.items()})
        for batch, program in programs.items():
            kept = "recomputed" if remat else "kept"
            row = {"case": f"bfloat16, {kept}, batch {batch}", "numerics": "bfloat16", "count": 1}
            if not isinstance(program, Exception):
                row["memory"] = _peak_bytes(program)
            yield _timed_steps(row, program, cases[batch], variables, batch * of_one)


class _Case:
    """A training step that is traced but not compiled."""

    def __init__(self, run, state, shapes):
        self.run, self.shapes = run, shapes
        self.lowered = run.train_step.lower(state, shapes)


def _prepared(small, crop, batch, **numerics):
    from vitdeblur_jax.distributed.sharding import local_mesh
    from vitdeblur_jax.training.defaults import default_config
    from vitdeblur_jax.training.preparation import abstract_state, placed, prepare

    config, mesh = default_config("base"), local_mesh()
    config.update(crop=crop, batch_size=batch)
    run = prepare(config, make_model(small, **numerics), mesh)
    return run, placed(abstract_state(run), mesh)


def _training_case(small, crop, batch, remat) -> _Case:
    from vitdeblur_jax.distributed.sharding import batch_sharded

    run, state = _prepared(small, crop, batch, numerics="bfloat16", remat=remat)
    shape = jax.ShapeDtypeStruct(
        (batch, crop, crop, 3), jnp.uint8, sharding=batch_sharded(run.mesh)
    )
    return _Case(run, state, {"blurred": shape, "sharp": shape})


def _flops_of_step(small, crop) -> int:
    """Returns the products per image of a step that recomputes nothing."""
    batch = 2  # the least for batch norm
    run, state = _prepared(small, crop, batch, numerics="float32", remat=False)
    shape = jax.ShapeDtypeStruct((batch, crop, crop, 3), jnp.uint8)
    traced = run.train_step.trace(state, {"blurred": shape, "sharp": shape})
    return count_flops(traced.jaxpr, "cuda").total() // batch


def _peak_bytes(program) -> int:
    """Returns the memory that the compiled step needs, with its state and its batch."""
    sizes = program.memory_analysis()
    held = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return held + sizes.temp_size_in_bytes


def _timed_steps(row, program, case: _Case, variables, flops) -> Row:
    if isinstance(program, Exception):
        return {**row, "error": one_line(program)}
    from vitdeblur_jax.distributed.sharding import state_sharding

    try:
        state = jax.jit(case.run.create)(jax.tree.map(jnp.array, variables))
        state = jax.device_put(state, state_sharding(case.run.mesh, state))
        shape = case.shapes["blurred"].shape
        images = jax.device_put(training_batch(shape[0], shape[1]), case.shapes["blurred"].sharding)
        held = [state]

        def step():
            held[0], metrics = program(held[0], images)
            return metrics["loss"]

        row["loss"] = float(step())
    except Exception as error:
        return {**row, "error": one_line(error)}
    return timed(row, step, flops, seconds=1.5)


def run(small: bool, seconds: float) -> Iterator[Row]:
    """Yields the log of a run of `configs/tiny.py`: two minutes of training, or what time is left.

    Three of the images in `examples/images/sharp` are trained on, with synthetic defocus, and the
    fourth is held out. The learning rate is constant after the warm-up, because the number of
    steps is not known before.
    """
    from configs import tiny
    from vitdeblur_jax.training import train

    config = tiny.get_config()
    config.data.update(root=str(SHARP_IMAGES), hold_out=1)
    config.optimizer.update(schedule="constant", learning_rate=4e-3)
    config.update(num_steps=100_000, save_every=100_000, log_every=50)
    config.validation.update(every=250, num_images=1)
    if small:
        config.update(num_steps=2, save_every=2, log_every=1, batch_size=2)
        config.optimizer.warmup_steps, config.validation.every = 1, 0
    with tempfile.TemporaryDirectory() as workdir:
        limit = max(20, min(120, seconds - _STARTS_AND_ENDS))
        stop = threading.Timer(limit, os.kill, (os.getpid(), signal.SIGTERM))
        stop.daemon = True
        stop.start()  # training ends at SIGTERM as if a cluster preempted it
        train(config, workdir)
        stop.cancel()
        lines = (Path(workdir) / "log.jsonl").read_text().splitlines()
    for line in lines:
        values = json.loads(line)
        yield {"case": f"{values.pop('kind')}, step {values.pop('step')}", **values}
