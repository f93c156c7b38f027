"""Eight virtual devices: every mesh computes what one device does, and holds only its shards.

Run in a process of its own, for the number of devices is fixed when JAX starts. As a program it
takes the file of results and the names of the meshes.
"""

import functools
import re
import sys

import jax
import numpy as np
import optax
import pytest

from benchmarks.collectives import KINDS
from tests.small_model import small_pretrained
from tests.training.several_processes import by_path, on_devices
from vitdeblur_jax.distributed.sharding import batch_sharded, make_mesh, state_sharding
from vitdeblur_jax.training.objective import weighted_objective
from vitdeblur_jax.training.preparation import bytes_a_device
from vitdeblur_jax.training.state import create_state
from vitdeblur_jax.training.step import compile_train_step

OTHER_MESHES = ("8x1", "1x8", "4x2")  # than the one which the default run tries
STEPS = 3
WEIGHTS = {
    "charbonnier": 1.0,
    "contextual_cosine": 0.2,
    "sharpness": 0.06,
    "vicreg_variance": 0.01,  # trains the projector, so that batch norm's statistics count
}


def wide_model():
    """The small model, wide enough for most of its parameters to be spread over eight devices."""
    return small_pretrained(primary_encoder__width=256, decoder__width=256)


def batch(step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    return {k: rng.integers(256, size=(8, 46, 46, 3), dtype=np.uint8) for k in ("blurred", "sharp")}


def run(mesh: jax.sharding.Mesh):
    """Returns the state after the steps, their metrics, and the compiled step."""
    # Some gradients are zero but for rounding, which Adam would blow up to its full step.
    pretrained, optimizer = wide_model(), optax.adamw(1e-3, eps=1e-5)
    step = compile_train_step(
        mesh,
        objective=functools.partial(weighted_objective, pretrained.model, WEIGHTS),
        optimizer=optimizer,
        ema_decay=0.9,
    )
    params = pretrained.variables["params"]
    state = create_state(pretrained.variables, params, optimizer, with_ema=True)
    state = jax.device_put(state, state_sharding(mesh, state))
    compiled = step.lower(state, jax.device_put(batch(0), batch_sharded(mesh))).compile()
    metrics = []
    for number in range(STEPS):
        state, measured = compiled(state, jax.device_put(batch(number), batch_sharded(mesh)))
        metrics.append(jax.device_get(measured))
    return state, metrics, compiled


def collectives(compiled: str) -> dict[str, list[str]]:
    """Returns the collectives of a compiled module, by kind: what each computes, and for what."""
    found = re.findall(
        rf"= (.*?) ({'|'.join(KINDS)})(?:-start)?\("
        r'(?:.*op_name="([^"]*)")?',
        compiled,
    )
    kinds = {}
    for result, kind, name in found:
        kinds.setdefault(kind, []).append(f"{result} {name}")
    return kinds


def main(path: str, *meshes: str):
    assert len(jax.devices()) == 8
    results = {}
    for name in meshes:
        data, fsdp = map(int, name.split("x"))
        mesh = make_mesh(data, fsdp, jax.devices()[: data * fsdp])
        state, metrics, compiled = run(mesh)
        arrays = by_path({"state": jax.device_get(state), "metrics": metrics})
        results |= {f"{name}{path}": leaf for path, leaf in arrays.items()}
        check_shards(state, mesh)
        if mesh.size > 1:  # no device has the images of all, blurred and sharp
            assert "[16,46,46,3]" not in compiled.as_text()
        if fsdp > 1:
            check_collectives(collectives(compiled.as_text()), state)
    np.savez(path, **results)


def check_shards(state, mesh):
    """Each large array is spread evenly over "fsdp", and each device holds a part of the whole."""
    fsdp = mesh.shape["fsdp"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        sizes = {shard.data.size for shard in leaf.addressable_shards}
        is_large = leaf.size >= 4096 and any(length % fsdp == 0 for length in leaf.shape)
        assert sizes == {leaf.size // (fsdp if is_large else 1)}, jax.tree_util.keystr(path)
    held = [0] * 8
    for leaf in jax.tree.leaves(state):
        for shard in leaf.addressable_shards:
            held[shard.device.id] += shard.data.nbytes
    used = [held[device.id] for device in mesh.devices.flat]
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert set(used) == {bytes_a_device(state, mesh)}
    print(f"{dict(mesh.shape)}: {used[0]} bytes a device of {whole}")
    assert used[0] < 1.1 * whole / fsdp


def check_collectives(found, state):
    """Parameters are gathered and gradients added up; nothing of the optimizer travels."""
    print({kind: len(names) for kind, names in found.items()})
    assert set(found) <= {"all-gather", "all-reduce", "reduce-scatter"}, found
    large = [leaf for leaf in jax.tree.leaves(state.params) if leaf.size >= 4096]
    gathered = [name for name in found["all-gather"] if "sharding_constraint" in name]
    assert len(gathered) <= len(large)
    assert len(gathered) > 0.8 * len(large)  # the table of positions is gathered elsewhere
    rest = [name for name in found["all-gather"] if "sharding_constraint" not in name]
    # Images in the FFT of a CPU, positions; flags of images. No weight's moments or average.
    shapes = {tuple(leaf.shape) for leaf in large}
    assert not [name for name in rest if _shape(name) in shapes and "tokenizer" not in name], rest


def _shape(name):
    (numbers,) = re.findall(r"^\(?\w+\[([\d,]*)\]", name)
    return tuple(int(number) for number in numbers.split(",") if number)


def _results(path, *meshes):
    print(on_devices(8, ["-m", __name__, str(path), *meshes], path.parent))
    return np.load(path)


def _assert_equal_to_one_device(results, mesh):
    paths = [name.removeprefix("1x1") for name in results.files if name.startswith("1x1")]
    assert any("running" in path or "mean" in path for path in paths)
    for path in paths:
        np.testing.assert_allclose(
            results[mesh + path], results["1x1" + path], rtol=1e-5, atol=1e-5, err_msg=path
        )


def test_eight_devices_compute_what_one_does(tmp_path):
    _assert_equal_to_one_device(_results(tmp_path / "results.npz", "1x1", "2x4"), "2x4")


@pytest.mark.slow
def test_every_other_mesh_computes_what_one_device_does(tmp_path):
    results = _results(tmp_path / "results.npz", "1x1", *OTHER_MESHES)
    for mesh in OTHER_MESHES:
        _assert_equal_to_one_device(results, mesh)


if __name__ == "__main__":
    main(*sys.argv[1:])
