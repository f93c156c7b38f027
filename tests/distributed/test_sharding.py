"""The rules of placement, on devices that only have names."""

import dataclasses

import numpy as np
import pytest
from jax.sharding import PartitionSpec

from vitdeblur_jax.distributed.sharding import make_mesh, spec_of
from vitdeblur_jax.utils.errors import UserError


@dataclasses.dataclass(frozen=True)
class Device:
    """What a mesh asks of a device."""

    id: int
    process_index: int = 0
    slice_index: int | None = None
    platform: str = "cpu"
    device_kind: str = "cpu"


@pytest.mark.parametrize(
    ("shape", "fsdp", "spec"),
    [
        ((768, 2304), 8, PartitionSpec(None, "fsdp")),
        ((16, 16, 3, 768), 8, PartitionSpec(None, None, None, "fsdp")),
        ((13, 13, 64, 3), 8, PartitionSpec(None, None, "fsdp")),  # 3 output channels do not divide
        ((768, 2304), 1, PartitionSpec()),
        ((768,), 8, PartitionSpec()),  # small
        ((8192,), 8, PartitionSpec("fsdp")),
        ((145, 333), 8, PartitionSpec()),
        ((), 8, PartitionSpec()),
    ],
)
def test_the_last_axis_that_divides_is_spread(shape, fsdp, spec):
    assert spec_of(shape, fsdp) == spec


@pytest.mark.parametrize(
    ("data", "fsdp", "shape"), [(-1, 1, (8, 1)), (-1, 4, (2, 4)), (2, -1, (2, 4)), (1, 8, (1, 8))]
)
def test_minus_one_is_inferred_from_the_device_count(data, fsdp, shape):
    assert make_mesh(data, fsdp, [Device(i) for i in range(8)]).devices.shape == shape


@pytest.mark.parametrize(
    ("data", "fsdp", "message"),
    [
        (3, 2, r"mesh\.data 3 and mesh\.fsdp 2 do not fit 8 devices"),
        (-1, 3, r"mesh\.data -1 and mesh\.fsdp 3 do not fit 8 devices"),
        (-1, -1, "both -1"),
        (0, 1, r"mesh\.data is 0"),
    ],
)
def test_a_mesh_that_does_not_fit_is_told_with_the_numbers(data, fsdp, message):
    with pytest.raises(UserError, match=message):
        make_mesh(data, fsdp, [Device(i) for i in range(8)])


def test_parameters_are_not_gathered_across_slices():
    devices = [Device(i, process_index=i // 2, slice_index=i // 4) for i in range(8)]
    mesh = make_mesh(-1, 4, np.random.default_rng(0).permutation(devices).tolist())
    for row in mesh.devices:
        assert len({device.slice_index for device in row}) == 1
    with pytest.raises(UserError, match=r"mesh\.fsdp 8 must divide .* slice \(4, 4\)"):
        make_mesh(1, 8, devices)


def test_parameters_are_not_gathered_across_machines_with_a_process_for_each_gpu():
    devices = [Device(i, process_index=i, slice_index=i % 2, platform="gpu") for i in range(8)]
    mesh = make_mesh(-1, 2, devices)
    assert mesh.devices.shape == (4, 2)
    for row in mesh.devices:
        assert len({device.slice_index for device in row}) == 1


def test_slices_of_different_sizes_are_refused():
    devices = [Device(i, slice_index=i // 6) for i in range(8)]
    with pytest.raises(UserError, match=r"mesh\.fsdp 2 must divide .* slice \(6, 2\)"):
        make_mesh(-1, 2, devices)


def test_slices_follow_each_other_along_data():
    devices = [Device(i, slice_index=i // 4) for i in range(8)]
    mesh = make_mesh(4, 2, devices[::-1])
    assert [[device.slice_index for device in row] for row in mesh.devices] == [
        *([0, 0], [0, 0], [1, 1], [1, 1])
    ]
