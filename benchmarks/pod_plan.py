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
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from benchmarks.chips import GPUS_A_MACHINE, Chip, chip
from benchmarks.collectives import Traffic, collectives
from benchmarks.flops import count_flops
from vitdeblur_jax.cli.process import import_jax
from vitdeblur_jax.cli.with_config import run_with_config
from vitdeblur_jax.distributed.sharding import DATA, FSDP, batch_sharded, make_mesh, spec_of
from vitdeblur_jax.models.network import views_of
from vitdeblur_jax.training.configuration import check_config
from vitdeblur_jax.training.optimizer import trained_part
from vitdeblur_jax.training.preparation import (
    Run,
    abstract_state,
    bytes_a_device,
    describe,
    placed,
    prepare,
)
from vitdeblur_jax.utils.errors import CHECKED_AND_WRONG, UserError, one_line
from vitdeblur_jax.utils.table import format_table


class Plan(NamedTuple):
    """The cost of a training step.

    Attributes:
      flops: FLOPs of all chips together, by kind of product.
      state: Bytes per chip of parameters, optimizer state and EMA.
      memory: Other bytes per chip, by name; empty without a compiler.
      moved: Least bytes between a chip and its memory; None without a compiler.
      traffic: Traffic by kind of collective and group size.
      network: Bytes of the traffic that a chip must send to other machines.
    """

    flops: Counter[str]
    state: int
    memory: dict[str, int]
    moved: int | None
    traffic: dict[tuple[str, int], Traffic]
    network: float = 0.0


class DoesNotFitError(Exception):
    """The compiler reports that the program needs more memory than a chip has."""


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


def prepared(config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh, batch: int) -> Run:
    """Returns the run with a given batch size per device."""
    config.batch_size, config.progressive = batch * mesh.size, ()
    for key, value in config.initial.items():
        config.initial[key] = type(value)()
    config.initial.checkpoint = "any"  # it is not read
    return prepare(config, check_config(config), mesh)


def traced_step(config: ml_collections.ConfigDict, run: Run) -> jax.stages.Traced:
    """Returns the traced step, with the shardings of the run."""
    shape = config.batch_size, config.crop, config.crop
    batch = {
        name: jax.ShapeDtypeStruct((*shape, channels), jnp.uint8, sharding=batch_sharded(run.mesh))
        for name, channels in {"blurred": 3 * views_of(run.network), "sharp": 3}.items()
    }
    return run.train_step.trace(placed(abstract_state(run), run.mesh), batch)


def compiled(config: ml_collections.ConfigDict, run: Run) -> Plan:
    """Returns the plan of the step, compiled for the devices of its mesh.

    Raises:
      DoesNotFitError: It does not fit into their memory.
    """
    traced = traced_step(config, run)
    try:
        program = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise DoesNotFitError(one_line(error)) from error
        raise
    memory = program.memory_analysis()
    given, made = memory.argument_size_in_bytes, memory.output_size_in_bytes
    return Plan(
        flops=count_flops(traced.jaxpr, run.mesh.devices.flat[0].platform),
        state=bytes_a_device(abstract_state(run), run.mesh),
        memory={
            "state and batch": given,
            "temporaries": memory.temp_size_in_bytes,
            "program": memory.generated_code_size_in_bytes,
            "all": given
            + made
            - memory.alias_size_in_bytes
            + memory.temp_size_in_bytes
            + memory.generated_code_size_in_bytes,
        },
        moved=given + made,
        traffic=collectives(program.as_text()),
    )


def by_arithmetic(config: ml_collections.ConfigDict, run: Run) -> Plan:
    """Returns the parts of the plan that follow from shapes and shardings."""
    state = abstract_state(run)
    trained = trained_part(state.params, run.frozen)
    data, fsdp = run.mesh.shape[DATA], run.mesh.shape[FSDP]
    machines = max(1, run.mesh.size // GPUS_A_MACHINE)
    gradients = sum(4 * leaf.size for leaf in jax.tree.leaves(trained))
    return Plan(
        flops=count_flops(traced_step(config, run).jaxpr, "cuda"),
        state=bytes_a_device(state, run.mesh),
        memory={},
        moved=None,
        traffic=traffic_by_rule(state.params, trained, data, fsdp),
        network=2 * gradients * (machines - 1) / machines / GPUS_A_MACHINE,
    )


def traffic_by_rule(
    params: dict, trained: dict, data: int, fsdp: int
) -> dict[tuple[str, int], Traffic]:
    """Returns what has to be sent at least once a step, in float32.

    Parameters that are spread over "fsdp" are gathered there, their gradients are summed up and
    scattered there, and then summed up along "data"; all other gradients over all devices.

    Args:
      params: Leaves have a shape and a size.
      trained: Those of them that have gradients.
      data: Size of that mesh axis.
      fsdp: Size of the other.
    """
    spread = lambda leaf: any(spec_of(leaf.shape, fsdp))  # noqa: E731
    leaves = jax.tree.leaves(trained)
    gathered = [leaf.size for leaf in jax.tree.leaves(params) if spread(leaf)]
    scattered = [leaf.size for leaf in leaves if spread(leaf)]
    whole = [leaf.size for leaf in leaves if not spread(leaf)]
    part, of_data = (fsdp - 1) / fsdp, 2 * (data - 1) / data
    devices = data * fsdp
    rows = {
        ("all-gather", fsdp): Traffic(len(gathered), 4 * sum(gathered) * part),
        ("reduce-scatter", fsdp): Traffic(len(scattered), 4 * sum(scattered) * part),
        ("all-reduce", data): Traffic(len(scattered), 4 * sum(scattered) / fsdp * of_data),
        ("all-reduce", devices): Traffic(len(whole), 8 * sum(whole) * (devices - 1) / devices),
    }
    return {key: traffic for key, traffic in rows.items() if traffic.sent}


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


def least_seconds(plan: Plan, limits: Chip, chips: int) -> dict[str, float]:
    """Returns the least seconds of each part of a step at the published rates."""
    seconds = {
        "arithmetic": sum(n / limits.peak[kind] for kind, n in plan.flops.items()) / chips,
        "links": sum(traffic.sent for traffic in plan.traffic.values()) / limits.link_rate,
    }
    if plan.moved is not None:
        seconds["memory"] = plan.moved / limits.memory_rate
    if plan.network:
        seconds["network"] = plan.network / limits.network_rate
    return seconds


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
