"""Programs in several real processes on this machine; and what a checkpoint gives on devices.

As a program, `WORKDIR STEP OUT`, it restores a checkpoint on whatever devices it is started with
and writes it into a file of NumPy's.
"""

import json
import socket
import sys
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import jax
import ml_collections
import numpy as np

from tests.forked import start_program
from vitdeblur_jax.distributed.processes import is_first, join_others
from vitdeblur_jax.distributed.sharding import make_mesh, whole_on_local_devices
from vitdeblur_jax.models import create_network
from vitdeblur_jax.training.checkpointing import TrainingCheckpoints
from vitdeblur_jax.training.preparation import abstract_state, placed, prepare
from vitdeblur_jax.utils.buckets import AnyPath

ROOT = Path(__file__).parents[2]


class Ended(NamedTuple):
    """What has become of a process: its exit status, and what it wrote on both streams."""

    status: int
    output: str


def start(
    count: int, program: Sequence[str], folder: Path, devices: int = 1, **environment: str
) -> list[BaseProcess]:
    """Starts a program `count` times; each writes its output into `folder/INDEX.txt`.

    Args:
      count: of processes; one is started without flags.
      program: its file and arguments.
      folder: for the output.
      devices: virtual ones of each.
      environment: more variables.
    """
    folder.mkdir(parents=True, exist_ok=True)
    virtual = f"--xla_force_host_platform_device_count={devices}"
    variables = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": virtual, **environment}
    coordinator = f"127.0.0.1:{free_port()}"
    started = []
    for index in range(count):
        flags = [f"--coordinator={coordinator}", f"--processes={count}", f"--process={index}"]
        arguments = [*program, *(flags if count > 1 else [])]
        output = folder / f"{index}.txt"
        output.unlink(missing_ok=True)
        started.append(start_program(arguments, ROOT, output, output, **variables))
    return started


def end(started: list[BaseProcess], folder: Path, seconds: float = 300) -> list[Ended]:
    """Waits for all and returns what has become of them; kills those that hang."""
    deadline = time.monotonic() + seconds
    for process in started:
        process.join(max(0, deadline - time.monotonic()))
    hung = [index for index, process in enumerate(started) if process.is_alive()]
    for process in started:
        process.kill()
        process.join()
    outputs = [(folder / f"{i}.txt").read_text(errors="replace") for i in range(len(started))]
    assert not hung, f"processes {hung} did not end within {seconds} s: {outputs}"
    return [Ended(p.exitcode, output) for p, output in zip(started, outputs, strict=True)]


def on_devices(count: int, program: Sequence[str], folder: Path) -> str:
    """Returns the output of a program that ran on so many virtual devices, and succeeded."""
    (ended,) = end(start(1, program, folder, devices=count), folder, seconds=600)
    assert ended.status == 0, ended.output
    return ended.output


def restored(workdir: AnyPath, step: int) -> dict[str, np.ndarray]:
    """Returns all arrays of a checkpoint by path, restored onto all devices of all processes."""
    contents = json.loads((workdir / "config.json").read_text())
    encoder = contents["model"]["contextual_encoder"]
    encoder["projector_widths"] = tuple(encoder["projector_widths"])
    config = ml_collections.ConfigDict({**contents, "batch_size": 8})  # for any of these meshes
    run = prepare(config, create_network(config), make_mesh(1, -1))
    state = placed(abstract_state(run), run.mesh)
    with TrainingCheckpoints(workdir / "checkpoints", 2) as checkpoints:
        state, _ = checkpoints.restore(step, state)
    return by_path(whole_on_local_devices(run.mesh, state))


def by_path(tree) -> dict[str, np.ndarray]:
    """Returns the leaves of a tree by their paths, on the host."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def main():
    flags = [argument for argument in sys.argv[1:] if argument.startswith("--")]
    place = {flag.split("=")[0]: flag.split("=")[1] for flag in flags}
    if place:
        join_others(place["--coordinator"], int(place["--processes"]), int(place["--process"]))
    workdir, step, out = (argument for argument in sys.argv[1:] if argument not in flags)
    arrays = restored(Path(workdir), int(step))
    if is_first():
        np.savez(out, **arrays)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


if __name__ == "__main__":
    main()
