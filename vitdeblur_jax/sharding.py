"""The device mesh, and which array axis lies on which mesh axis."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def local_mesh() -> Mesh:
    """Returns a one-dimensional mesh, axis "data", of this process's devices."""
    return Mesh(np.array(jax.local_devices()), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array whose first axis is spread over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))
