"""The device mesh, and which array axis lies on which mesh axis.

A mesh has two axes. A batch is spread over both of them, so that every device has images of its
own; parameters, and all that has their shapes, are spread over "fsdp" and the same along "data".
One device is a mesh of 1 x 1.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vitdeblur_jax.utils.errors import UserError

DATA, FSDP = "data", "fsdp"

# Smaller arrays are whole on every device: to gather one takes longer than its memory is worth.
SMALLEST_SHARDED = 4096


def local_mesh() -> Mesh:
    """Returns the mesh of this process's devices, all along "data"."""
    return make_mesh(-1, 1, jax.local_devices())


def make_mesh(data: int, fsdp: int, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns a mesh of devices, those with fast links between them side by side along "fsdp".

    Where JAX reports several slices of a TPU pod, the slow links between slices are left to "data";
    on several machines with GPUs, those between machines.

    Args:
      data: size of the axis "data"; -1 for what the other leaves.
      fsdp: size of the axis "fsdp"; -1 likewise, but only one of the two.
      devices: by default all of all processes.

    Raises:
      UserError: the sizes do not multiply to the number of devices, or "fsdp" does not fit into a
        slice or machine.
    """
    devices = jax.devices() if devices is None else list(devices)
    data, fsdp = _sizes(data, fsdp, len(devices))
    granules = _granules(devices)
    if len(granules) == 1:
        places = mesh_utils.create_device_mesh((data, fsdp), devices)
    else:
        places = _across_granules(granules, fsdp)
    return Mesh(places, (DATA, FSDP), axis_types=(AxisType.Auto,) * 2)


def _sizes(data: int, fsdp: int, count: int) -> tuple[int, int]:
    sizes = {"mesh.data": data, "mesh.fsdp": fsdp}
    for name, size in sizes.items():
        if size != -1 and size < 1:
            raise UserError(f"{name} is {size}; it is 1 or more, or -1 for what the other leaves")
    if data == fsdp == -1:
        raise UserError(
            "mesh.data and mesh.fsdp are both -1; only one can be what the other leaves"
        )
    if data == -1 and count % fsdp == 0:
        data = count // fsdp
    if fsdp == -1 and count % data == 0:
        fsdp = count // data
    if data * fsdp != count:
        raise UserError(
            f"mesh.data {sizes['mesh.data']} and mesh.fsdp {sizes['mesh.fsdp']} do not fit "
            f"{count} device{'s' * (count > 1)}: their product must be that number"
        )
    return data, fsdp


def _granules(devices: Sequence[Any]) -> list[list]:
    """Returns the devices by slice, and on GPUs by machine: between these the links are slow."""
    granules = {}
    for device in devices:
        machine = device.process_index if device.platform == "gpu" else 0
        granules.setdefault((getattr(device, "slice_index", None) or 0, machine), []).append(device)
    return [granules[key] for key in sorted(granules)]


def _across_granules(granules, fsdp):
    sizes = {len(granule) for granule in granules}
    if len(sizes) > 1 or sizes.pop() % fsdp:
        raise UserError(
            f"mesh.fsdp {fsdp} must divide the devices of each slice or machine, "
            f"{', '.join(str(len(granule)) for granule in granules)}: parameters are not gathered "
            "over slow links"
        )
    shape = (len(granules[0]) // fsdp, fsdp)
    return np.concatenate([mesh_utils.create_device_mesh(shape, part) for part in granules])


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array whose first axis is spread over all devices."""
    return NamedSharding(mesh, PartitionSpec((DATA, FSDP)))


def spec_of(shape: Sequence[int], fsdp: int) -> PartitionSpec:
    """Returns which axis of a parameter lies on "fsdp".

    It is the last axis that `fsdp` divides: with kernels, whose output channels come last, neither
    a gradient's contraction nor the parts of a concatenation are cut. Arrays of fewer than 4096
    values, and those without such an axis, are whole on every device. The shape alone decides: so
    an optimizer's moments and an average lie where their parameter does.

    Args:
      shape: of the array.
      fsdp: size of that mesh axis.
    """
    fitting = [axis for axis, length in enumerate(shape) if length % fsdp == 0]
    if fsdp == 1 or math.prod(shape) < SMALLEST_SHARDED or not fitting:
        return PartitionSpec()
    return PartitionSpec(*(None for _ in range(fitting[-1])), FSDP)


def state_sharding(mesh: Mesh, tree: Any) -> Any:
    """Returns the shardings of a tree of parameters, or of whatever has their shapes.

    Args:
      mesh: of `make_mesh`.
      tree: leaves have a shape.
    """
    return jax.tree.map(lambda x: NamedSharding(mesh, spec_of(x.shape, mesh.shape[FSDP])), tree)


def gathered(mesh: Mesh, params: Any) -> Any:
    """Returns the parameters whole on every device; their gradients arrive as `state_sharding`.

    So a step holds each device's own images and gathers parameters, rather than the other way
    round; and a gradient is summed up only where its part of the optimizer is.
    """

    @jax.custom_vjp
    def gather(params):
        return jax.lax.with_sharding_constraint(params, replicated(mesh))

    def backward(_, gradients):
        shardings = state_sharding(mesh, gradients)
        return (jax.lax.with_sharding_constraint(gradients, shardings),)

    gather.defvjp(lambda params: (gather(params), None), backward)
    return gather(params)


def whole_on_local_devices(mesh: Mesh, tree: Any) -> Any:
    """Returns a tree of arrays that are spread over the mesh, whole on each of this process's own.

    All processes have to call it: they fetch what they lack from each other.
    """
    local = replicated(local_mesh())

    def own(array):
        parts = [shard.data for shard in array.addressable_shards]
        return jax.make_array_from_single_device_arrays(array.shape, local, parts)

    return jax.tree.map(own, _replicate(mesh)(tree))


@functools.cache
def _replicate(mesh):
    return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))


def rows_of_this_process(sharding: NamedSharding, batch_size: int) -> list[int]:
    """Returns which rows of a batch lie on this process's devices, in order."""
    places = sharding.addressable_devices_indices_map((batch_size,)).values()
    return sorted({row for (rows,) in places for row in range(*rows.indices(batch_size))})
