"""The cost of a training step: compiled for the devices of a mesh, or computed from shapes."""

from collections import Counter
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from benchmarks.chips import GPUS_A_MACHINE, Chip
from benchmarks.collectives import Traffic, collectives
from benchmarks.flops import count_flops
from vitdeblur_jax.distributed.sharding import DATA, FSDP, batch_sharded, spec_of
from vitdeblur_jax.models.network import views_of
from vitdeblur_jax.training.configuration import check_config
from vitdeblur_jax.training.optimizer import trained_part
from vitdeblur_jax.training.preparation import Run, abstract_state, bytes_a_device, placed, prepare
from vitdeblur_jax.utils.errors import one_line


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
