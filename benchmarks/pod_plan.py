r"""Estimates a training step on a pod without one: memory, arithmetic, traffic, least time.

    python -m benchmarks.pod_plan --config=configs/dpdd.py --topology=v5e:16x16 \
        [--batch-per-chip=8] [--fsdp=16] [--search] [--parameters] [--config.KEY=VALUE ...]

For a slice of TPUs (v4, v5e, v5p, v6e; needs `pip install ".[tpu]"`) the step is compiled for these
chips, which takes minutes. For GPUs, `--topology=gpu:8xH100` (also H200 and A100), no compiler is
available, so the figures are computed from shapes, and the memory of activations is unknown.

The batch size is `--batch-per-chip` times the number of chips and overrides the config. `--fsdp`
defaults to the config's mesh.fsdp; the axis "data" gets the remaining factor. The plan of a
progressive config is that of its first stage. `--search` finds the largest batch per chip that
fits, starting with `--batch-per-chip`. `--parameters` lists the sharding of each parameter.
"""

import argparse
import os
import sys
from collections.abc import Callable

import jax
import ml_collections

from benchmarks.chips import GPUS_A_MACHINE, Chip, chip
from benchmarks.step_plan import (
    DoesNotFitError,
    Plan,
    by_arithmetic,
    compiled,
    least_seconds,
    prepared,
)
from vitdeblur_jax.cli.process import import_jax
from vitdeblur_jax.cli.with_config import run_with_config
from vitdeblur_jax.distributed.sharding import DATA, FSDP, make_mesh
from vitdeblur_jax.training.preparation import describe
from vitdeblur_jax.utils.errors import CHECKED_AND_WRONG, UserError, one_line
from vitdeblur_jax.utils.table import format_table


def main() -> None:
    """Prints the plan; exits with 1 if it does not fit, 2 on an error."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog="--config=FILE and --config.KEY=VALUE as for train.py",
        allow_abbrev=False,
    )
    parser.add_argument("--topology", required=True, help="v5e:16x16, gpu:8xH100, ...")
    parser.add_argument("--batch-per-chip", type=int, default=8, help="images per chip (8)")
    parser.add_argument("--fsdp", type=int, help="chips that share the state (mesh.fsdp)")
    parser.add_argument("--search", action="store_true", help="find the largest batch that fits")
    parser.add_argument("--parameters", action="store_true", help="list all shardings")
    options, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    # Otherwise libtpu queries the cloud's metadata and allows only one process. Any accelerator
    # type will do, because the compilation is for the topology.
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    jax.config.update("jax_platforms", "cpu")
    run_with_config(
        lambda config, _: report(config, options), required=("config",), find=import_jax
    )


def report(config: ml_collections.ConfigDict, options: argparse.Namespace) -> int:
    """Prints the plan and returns the exit status.

    Raises:
      UserError: The topology, config or mesh is invalid.
    """
    if options.batch_per_chip < 1:
        raise UserError(f"--batch-per-chip is {options.batch_per_chip}; it must be 1 or more")
    name, devices = topology(options.topology)
    is_gpu = options.topology.startswith("gpu:")
    if is_gpu and options.search:
        raise UserError("--search needs a compiler, and there is none for GPUs here; remove it")
    fsdp = config.mesh.fsdp if options.fsdp is None else options.fsdp
    if is_gpu and fsdp > GPUS_A_MACHINE:
        raise UserError(f"--fsdp is {fsdp}; a machine has only {GPUS_A_MACHINE} GPUs; lower it")
    mesh = make_mesh(-1, fsdp, devices)
    batch = options.batch_per_chip
    if options.search:
        batch, tried = largest_that_fits(lambda size: fits(config, mesh, size, chip(name)), batch)
        print(f"{batch} images per chip fit, one more does not ({tried} compilations)")
        if not batch:
            return CHECKED_AND_WRONG
    run, numerics = prepared(config, mesh, batch), config.numerics
    table = describe(run)
    if options.parameters:
        print(table)
    print(
        f"{options.topology}: data {mesh.shape[DATA]} x fsdp {mesh.shape[FSDP]} chips\n"
        f"batch {batch} per chip, {batch * mesh.size} total; crop {config.crop}, {numerics.dtype}, "
        f"remat {numerics.remat}, grad_accum_steps {config.grad_accum_steps}\n"
        f"{table.splitlines()[-1]}",
        flush=True,
    )
    try:
        plan = by_arithmetic(config, run) if is_gpu else compiled(config, run)
    except DoesNotFitError as error:
        print(f"does not fit into {chip(name).memory / 1e9:.1f} GB per chip: {error}")
        return CHECKED_AND_WRONG
    print(told(plan, chip(name), mesh.size))
    return 0


def topology(name: str) -> tuple[str, list[jax.Device]]:
    """Returns the name of the chip and its devices; for GPUs, CPU devices replace them.

    Raises:
      UserError: There is no such topology, or nothing to compile for it with.
    """
    kind, _, shape = name.partition(":")
    if kind == "gpu":
        count, _, kind = shape.partition("x")
        if not count.isdecimal() or not kind or not _whole_machines(int(count)):
            raise UserError(
                f"--topology {name}: for GPUs it is gpu:8xH100, or another number up to 8 or a "
                "multiple of it"
            )
        chip(kind)
        jax.config.update("jax_num_cpu_devices", int(count))
        return kind, jax.devices()
    chip(kind)
    from jax.experimental import topologies

    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=name)
    except Exception as error:  # of many kinds
        raise UserError(
            f"--topology {name}: {one_line(error)}; it is a shape that this TPU comes in, such as "
            'v5e:2x4 or v5p:2x2x2, and pip install ".[tpu]" brings its compiler'
        ) from error
    return kind, list(described.devices)


def _whole_machines(count):
    return 0 < count <= GPUS_A_MACHINE or (count and count % GPUS_A_MACHINE == 0)


def fits(config: ml_collections.ConfigDict, mesh, batch: int, limits: Chip) -> bool:
    """Returns whether the step with this batch size per chip fits into a chip's memory."""
    try:
        plan = compiled(config, prepared(config, mesh, batch))
    except DoesNotFitError:
        return False
    return plan.memory["all"] <= limits.memory


def largest_that_fits(fits: Callable[[int], bool], start: int) -> tuple[int, int]:
    """Returns the largest positive number that fits (0 if none does) and the number of trials.

    It doubles `start` until it does not fit, and then bisects.
    """
    answers = {}

    def tried(size):
        answers[size] = fits(size)
        return answers[size]

    good, bad = 0, start
    while tried(bad):
        good, bad = bad, 2 * bad
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if tried(middle) else (good, middle)
    return good, len(answers)


def told(plan: Plan, limits: Chip, chips: int) -> str:
    """Returns the plan as lines of text."""
    return "\n\n".join(
        (
            _memory(plan, limits),
            _arithmetic(plan, chips),
            _traffic(plan),
            _bound(plan, limits, chips),
        )
    )


def _memory(plan, limits):
    if not plan.memory:
        return (
            f"memory per chip: the state takes {plan.state / 1e9:.2f} GB of "
            f"{limits.memory / 1e9:.1f}; temporaries are unknown without a compiler"
        )
    rows = [(name, f"{size / 1e9:.2f}") for name, size in plan.memory.items()]
    rows.append(("available", f"{limits.memory / 1e9:.2f}"))
    return format_table(("memory per chip", "GB"), rows)


def _arithmetic(plan, chips):
    kinds = ", ".join(
        f"{flops / plan.flops.total():.1%} {kind if kind == 'bfloat16' else f'float32 {kind}'}"
        for kind, flops in plan.flops.most_common()
    )
    return (
        f"arithmetic of a step: {plan.flops.total() / 1e12:.2f} TFLOP, "
        f"{plan.flops.total() / chips / 1e12:.3f} TFLOP per chip ({kinds})"
    )


def _traffic(plan):
    rows = [
        (kind, str(group), str(traffic.times), f"{traffic.sent / 1e6:.1f}")
        for (kind, group), traffic in sorted(plan.traffic.items())
    ]
    table = format_table(("collective", "chips", "times", "MB sent per chip"), rows)
    rule = (
        "on a ring of n chips, gather and scatter send (n - 1) / n of the array, all-reduce twice "
        "that"
    )
    return f"{table}\n{rule}" if rows else "one chip: no traffic"


def _bound(plan, limits, chips):
    seconds = least_seconds(plan, limits, chips)
    rows = [(name, f"{1000 * value:.1f}") for name, value in seconds.items()]
    slowest = max(seconds, key=seconds.get)
    said = (
        f"a step takes at least {1000 * seconds[slowest]:.1f} ms if all parts overlap, limited by "
        f"{slowest}; {1000 * sum(seconds.values()):.1f} ms if none do"
    )
    known = "the memory time includes only one read and one write of the state\n"
    table = format_table(("least time at the published rates", "ms"), rows)
    return f"{table}\n{known if plan.moved else ''}{said}"


if __name__ == "__main__":
    main()
