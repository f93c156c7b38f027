"""The device mesh, and the sharding of each array.

The mesh has two axes, "data" and "fsdp". A batch is sharded over both, so each device has its own
images. Parameters, and arrays of the same shapes (optimizer state, moving average), are sharded
over "fsdp" and replicated over "data". One device is a 1 x 1 mesh.
"""

import collections
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vitdeblur_jax.utils.errors import UserError

DATA, FSDP = "data", "fsdp"

# Smaller arrays are replicated: gathering them costs more time than the memory is worth.
SMALLEST_SHARDED = 4096


def local_mesh() -> Mesh:
    """Returns the mesh of this process's devices, all of them along "data"."""
    return make_mesh(-1, 1, jax.local_devices())


def make_mesh(data: int, fsdp: int, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns a mesh of devices; devices with fast links between them are neighbors along "fsdp".

    JAX numbers the slices, groups of devices with fast links: the slices of a TPU pod, the hosts or
    NVLink domains of GPUs. Only "data" extends over several slices. CPU devices belong to no slice.

    Args:
      data: Size of the axis "data"; -1: inferred from the device count.
      fsdp: Size of the axis "fsdp"; -1: inferred from the device count. At most one size is -1.
      devices: Default: all devices of all processes.

    Raises:
      UserError: The product of the sizes is not the number of devices, or "fsdp" does not divide
        the devices of each slice.
    """
    devices = jax.devices() if devices is None else list(devices)
    data, fsdp = _sizes(data, fsdp, len(devices))
    slices = collections.Counter(getattr(device, "slice_index", 0) for device in devices)
    if len(slices) == 1:
        places = mesh_utils.create_device_mesh((data, fsdp), devices)
    else:
        _check_slices(slices, fsdp)
        shape, slow_shape = (data // len(slices), fsdp), (len(slices), 1)
        places = mesh_utils.create_hybrid_device_mesh(shape, slow_shape, devices)
    return Mesh(places, (DATA, FSDP), axis_types=(AxisType.Auto,) * 2)


def _sizes(data: int, fsdp: int, count: int) -> tuple[int, int]:
    sizes = {"mesh.data": data, "mesh.fsdp": fsdp}
    for name, size in sizes.items():
        if size != -1 and size < 1:
            raise UserError(
                f"{name} is {size}; it must be 1 or more, or -1 to infer it from the device count"
            )
    if data == fsdp == -1:
        raise UserError(
            "mesh.data and mesh.fsdp are both -1; only one can be inferred from the device count"
        )
    if data == -1 and count % fsdp == 0:
        data = count // fsdp
    if fsdp == -1 and count % data == 0:
        fsdp = count // data
    if data * fsdp != count:
        raise UserError(
            f"mesh.data {sizes['mesh.data']} and mesh.fsdp {sizes['mesh.fsdp']} do not fit "
            f"{count} device{'s' * (count > 1)}; their product must be the device count"
        )
    return data, fsdp


def _check_slices(slices: collections.Counter, fsdp: int) -> None:
    if len(set(slices.values())) > 1 or min(slices.values()) % fsdp:
        raise UserError(
            f"mesh.fsdp {fsdp} must divide the number of devices of each slice "
            f"({', '.join(map(str, slices.values()))}), so that parameters are not gathered over "
            "slow links; lower mesh.fsdp"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that is replicated on all devices."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array whose first axis is sharded over all devices."""
    return NamedSharding(mesh, PartitionSpec((DATA, FSDP)))


def global_array(array: Any, sharding: NamedSharding) -> jax.Array:
    """Returns a sharded array from a host array of which every process has the whole."""
    return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)


def spec_of(shape: Sequence[int], fsdp: int) -> PartitionSpec:
    """Returns the partition spec of a parameter.

    The last axis that `fsdp` divides is sharded. The last axis of a kernel is its output channels,
    so neither the contraction of a gradient nor the parts of a concatenation are split. Arrays
    without such an axis, or with fewer than 4096 values, are replicated. The spec depends on the
    shape alone, so optimizer moments and averages have the sharding of their parameter.

    Args:
      shape: Shape of the array.
      fsdp: Size of the mesh axis "fsdp".
    """
    fitting = [axis for axis, length in enumerate(shape) if length % fsdp == 0]
    if fsdp == 1 or math.prod(shape) < SMALLEST_SHARDED or not fitting:
        return PartitionSpec()
    return PartitionSpec(*(None for _ in range(fitting[-1])), FSDP)


def state_sharding(mesh: Mesh, tree: Any) -> Any:
    """Returns the shardings of a tree of parameters, or of arrays with their shapes.

    Args:
      mesh: Mesh with the axes "data" and "fsdp".
      tree: Tree of arrays or of their shapes.
    """
    return jax.tree.map(lambda x: NamedSharding(mesh, spec_of(x.shape, mesh.shape[FSDP])), tree)


def gathered(mesh: Mesh, params: Any) -> Any:
    """Returns the parameters replicated on all devices; gradients get `state_sharding`.

    So a step gathers parameters instead of images, and each gradient is reduced only to the devices
    that hold its optimizer state.
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
    """Returns a tree of arrays sharded over the mesh, replicated on this process's devices.

    All processes must call it, because they exchange their shards.
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
    """Returns the indices of the rows of a batch on this process's devices, in order."""
    places = sharding.addressable_devices_indices_map((batch_size,)).values()
    return sorted({row for (rows,) in places for row in range(*rows.indices(batch_size))})
