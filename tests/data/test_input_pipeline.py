"""Every crop is searched for in the image that its index names; steps are compared bit by bit."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import grain
import jax
import numpy as np
import pytest

from vitdeblur_jax.data import prefetch
from vitdeblur_jax.data.input_pipeline import make_train_dataset
from vitdeblur_jax.data.prefetch import prefetch_to_device
from vitdeblur_jax.distributed.sharding import batch_sharded, local_mesh
from vitdeblur_jax.utils.errors import UserError

CROP = 6
SETTINGS = {"seed": 3, "batch_size": 4, "crop": CROP}


class Memory:
    """Examples made from their number; number `broken` cannot be read."""

    def __init__(self, length: int, broken: int | None = None, radius: bool = False, first=0):
        self.length, self.broken, self.radius, self.first = length, broken, radius, first

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index == self.broken:
            raise UserError(f"photo{index}.png: damaged or cut short")
        rng = np.random.default_rng(self.first + index)
        images = rng.integers(0, 256, (2, 10, 12, 3), np.uint8)
        example = {"name": f"photo{index}", "blurred": images[0], "sharp": images[1]}
        return example | ({"radius": np.ones((10, 12), np.float32)} if self.radius else {})


def make(length: int = 10, **changes):
    return make_train_dataset([Memory(length)], **SETTINGS | changes)


def first(batches, count: int) -> list[dict]:
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def indices(batches) -> np.ndarray:
    return np.concatenate([batch["index"] for batch in batches])


def assert_same(ours: list[dict], theirs: list[dict]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            assert one[key].dtype == other[key].dtype
            np.testing.assert_array_equal(one[key], other[key])


def by_index(batches: list[dict]) -> dict[int, bytes]:
    """The bytes of examples by their indices, each of which comes once."""
    return {
        int(index): batch["blurred"][i].tobytes() + batch["sharp"][i].tobytes()
        for batch in batches
        for i, index in enumerate(batch["index"])
    }


def examples_of(batch: dict):
    return zip(*(batch[key] for key in ("blurred", "sharp", "index")), strict=True)


def symmetries(image: np.ndarray) -> list[np.ndarray]:
    return [np.rot90(side, turns) for side in (image, image[:, ::-1]) for turns in range(4)]


def is_crop_of(crops: tuple[np.ndarray, ...], images: tuple[np.ndarray, ...], count: int) -> bool:
    """Whether the crops are one place of the images, in one of the first `count` symmetries."""
    both = np.concatenate(images, axis=-1)
    wanted = symmetries(np.concatenate(crops, axis=-1))
    wanted = wanted if count == 8 else [wanted[0], wanted[4]]
    height, width = (side - CROP + 1 for side in both.shape[:2])
    places = [both[y : y + CROP, x : x + CROP] for y in range(height) for x in range(width)]
    return any(np.array_equal(place, turned) for place in places for turned in wanted)


@pytest.mark.parametrize(("flips", "count"), [({}, 2), ({"quarter_turns": True}, 8)])
def test_batches_hold_crops_of_the_examples_that_their_indices_name(flips, count):
    source = Memory(10)
    for batch in first(make(**flips), 8):
        assert batch.keys() == {"blurred", "sharp", "index"}
        assert batch["blurred"].shape == batch["sharp"].shape == (4, CROP, CROP, 3)
        assert batch["blurred"].dtype == batch["sharp"].dtype == np.uint8
        assert batch["index"].dtype == np.int32
        for blurred, sharp, index in examples_of(batch):
            example = source[int(index)]
            assert is_crop_of((blurred, sharp), (example["blurred"], example["sharp"]), count)


def test_every_epoch_takes_each_index_once_in_another_order_with_other_crops():
    batches = first(make(length=12), 6)  # two epochs of three batches
    epochs = indices(batches[:3]), indices(batches[3:])
    for epoch in epochs:
        assert sorted(epoch) == list(range(12))
    assert list(epochs[0]) != list(epochs[1])
    before, after = by_index(batches[:3]), by_index(batches[3:])
    assert sum(before[index] != after[index] for index in range(12)) > 9  # of 70 crops


def test_epochs_are_whole_where_batches_straddle_them():
    order = indices(first(make(length=3, batch_size=8), 6))
    assert [sorted(epoch) for epoch in order.reshape(-1, 3)] == [[0, 1, 2]] * 16


def test_same_seed_same_bytes_other_seed_another_order():
    assert_same(first(make(), 4), first(make(), 4))
    orders = [list(indices(first(make(length=40, seed=seed), 20))) for seed in range(4)]
    for one, other in itertools.permutations(orders, 2):
        assert one[:40] != other[:40]
        assert one[40:] != other[:40]  # nor is it the other's next epoch


def test_step_is_the_same_after_a_restore_as_uninterrupted():
    straight = first(make(), 9)
    batches = make()
    first(batches, 5)
    state = json.loads(json.dumps(batches.get_state()))
    assert state == {"next_index": 5}
    fresh = make()
    fresh.set_state(state)
    assert_same(first(fresh, 4), straight[5:])
    fresh.set_state({"next_index": 2})
    assert_same(first(fresh, 2), straight[2:4])
    assert_same([fresh.batches[7]], [straight[7]])


def test_a_far_step_is_reached_without_reading_what_lies_before():
    read = []

    class Counting(Memory):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    batches = make_train_dataset([Counting(10)], **SETTINGS)
    batches.set_state({"next_index": 10**12})
    (batch,) = first(batches, 1)
    assert len(read) < 200
    assert set(batch["index"]) <= set(read)


def test_orbax_handler_of_grain_saves_and_restores_it(tmp_path):
    batches, handler = make(), grain.checkpoint.CheckpointHandler()
    first(batches, 3)
    handler.save(tmp_path, batches)
    assert_same(first(handler.restore(tmp_path, make()), 2), first(batches, 2))


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_see_a_partition_of_the_same_global_batch(processes):
    whole = first(make(length=30, batch_size=8), 9)
    shares = np.arange(8).reshape(-1, processes).T  # not only rows in a row
    parts = [first(make(30, batch_size=8, rows=share.tolist()), 9) for share in shares]
    for step, batch in enumerate(whole):
        for share, part in zip(shares, parts, strict=True):
            assert_same([part[step]], [{key: value[share] for key, value in batch.items()}])


def test_images_without_ground_truth_are_refused():
    class Blurred(Memory):
        def __getitem__(self, index):
            return {"name": "party", "blurred": super().__getitem__(index)["blurred"]}

    with pytest.raises(UserError, match="party: it has no sharp image"):
        next(make_train_dataset([Blurred(4)], **SETTINGS))


class _Dying:
    """Stands in for Grain's reading ahead, whose workers die."""

    def __init__(self, status):
        self.status = status

    def __next__(self):
        raise RuntimeError(
            f"Worker process was terminated unexpectedly with exit code {self.status}. Search."
        )

    def close(self):
        pass


@pytest.mark.parametrize(
    ("status", "message"),
    [(64, "put what it does under `if __name__ == '__main__':`"), (-9, r"ended with status -9")],
)
def test_a_worker_that_died_is_one_line(monkeypatch, status, message):
    monkeypatch.setattr(prefetch, "_read_ahead", lambda *_: _Dying(status))
    with pytest.raises(UserError, match=message) as told:
        next(make(workers=2))
    assert "\n" not in str(told.value)


def test_a_worker_that_runs_an_unguarded_script_ends_at_once(monkeypatch):
    def end(status):
        raise SystemExit(status)

    monkeypatch.setattr(prefetch.os, "_exit", end)
    monkeypatch.setattr(prefetch.multiprocessing.current_process(), "_inheriting", True, False)
    with pytest.raises(SystemExit, match="64"):
        next(make(workers=2))


@pytest.mark.slow  # each worker imports JAX
def test_a_script_without_a_guard_ends_with_one_traceback(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from tests.data.test_input_pipeline import make\n"
        "print(next(make(workers=2))['sharp'].shape)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "__name__ == '__main__'" in done.stderr.splitlines()[-1]
    assert done.stderr.count("Traceback") == 1


@pytest.mark.slow  # each worker imports JAX
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_number_of_workers_does_not_matter(workers):
    expected = first(make(), 12)
    batches = make(workers=workers)
    assert_same(list(itertools.islice(batches, 7)), expected[:7])
    batches.set_state({"next_index": 6 - workers})
    assert_same(first(batches, 4), expected[6 - workers : 10 - workers])


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_broken_example_is_named_and_does_not_end_the_epoch_unnoticed(workers):
    batches = make_train_dataset([Memory(4, broken=2)], **SETTINGS, workers=workers)
    for _ in range(2):
        with pytest.raises(UserError) as caught:
            next(batches)
        assert str(caught.value) == "photo2.png: damaged or cut short"
        assert batches.get_state() == {"next_index": 0}
    batches.close()


def mixture(*lengths: int, **changes):
    return make_train_dataset([Memory(length) for length in lengths], **SETTINGS | changes)


def test_any_stretch_of_a_mixture_has_the_shares_of_its_weights():
    index = indices(first(mixture(5, 10, 7, weights=(1, 2.5, 0.5), batch_size=8), 12))
    sources = np.searchsorted([5, 15], index, side="right")
    for start in range(len(index) - 40):
        counts = np.bincount(sources[start : start + 40], minlength=3)
        np.testing.assert_allclose(counts, [10, 25, 5], atol=1)


def test_each_source_of_a_mixture_has_its_own_epochs():
    index = indices(first(mixture(3, 10, weights=(3, 1)), 20))
    small, large = index[index < 3], index[index >= 3]
    assert [len(small), len(large)] == [60, 20]
    epochs = small.reshape(-1, 3).tolist()
    assert [sorted(epoch) for epoch in epochs] == [[0, 1, 2]] * 20
    assert len(set(map(tuple, epochs))) > 3
    assert [sorted(epoch) for epoch in large.reshape(-1, 10)] == [list(range(3, 13))] * 2


def test_a_mixture_holds_crops_of_what_its_indices_name_and_resumes():
    sources = [Memory(2), Memory(3, first=2)]
    batches = make_train_dataset(sources, weights=(1, 3), **SETTINGS)
    taken, whole = first(batches, 9), Memory(5)
    for batch in taken:
        for blurred, sharp, index in examples_of(batch):
            example = whole[int(index)]
            assert is_crop_of((blurred, sharp), (example["blurred"], example["sharp"]), 2)
    batches.set_state({"next_index": 5})
    assert_same(first(batches, 4), taken[5:])
    parts = [
        first(make_train_dataset(sources, weights=(1, 3), rows=rows, **SETTINGS), 9)
        for rows in ([0, 3], [1, 2])
    ]
    for step, batch in enumerate(taken):
        for rows, part in zip(([0, 3], [1, 2]), parts, strict=True):
            assert_same([part[step]], [{key: value[rows] for key, value in batch.items()}])


def test_equally_long_sources_of_a_mixture_have_different_orders():
    index = indices(first(mixture(20, 20), 10))
    assert index[index < 20].tolist() != (index[index >= 20] - 20).tolist()


def test_radius_map_goes_along():
    source = Memory(10, radius=True)
    (batch,) = first(make_train_dataset([source], **SETTINGS), 1)
    np.testing.assert_array_equal(batch["radius"], np.ones((4, CROP, CROP), np.float32))


def test_smallest_batch():
    assert sorted(indices(first(make(length=3, batch_size=1), 3))) == [0, 1, 2]


@pytest.mark.parametrize(
    ("length", "changes", "message"),
    [
        (0, {}, "a source holds no example"),
        (10, {"seed": -1}, "the seed is -1"),
        (10, {"batch_size": 0}, "the batch size is 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(length, changes, message):
    with pytest.raises(UserError, match=message):
        make(length, **changes)


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 0.0), (1.0, -1.0)])
def test_weights_that_cannot_be_are_refused(weights):
    with pytest.raises(UserError, match="each source needs one above 0"):
        mixture(3, 4, weights=weights)


def test_crop_larger_than_an_image_is_refused_with_both_sizes():
    with pytest.raises(UserError, match=r"photo\d: no crop of 11 x 11 in 12 x 10 pixels"):
        next(make(crop=11))


def test_batches_on_a_device_through_two_workers_are_those_on_the_host():
    sharding = batch_sharded(local_mesh())
    expected = first(make(), 6)
    # Workers hand over shared memory: what JAX holds must not change when it is used again.
    on_device = prefetch_to_device(make(workers=2), sharding)
    taken = first(on_device, 6)
    for batch in taken:
        for array in batch.values():
            assert isinstance(array, jax.Array)
            assert array.sharding.is_equivalent_to(sharding, array.ndim)
    assert_same([jax.device_get(batch) for batch in taken], expected)


def test_state_of_the_device_batches_is_that_of_the_next_one_handed_out():
    expected = first(make(), 6)
    on_device = prefetch_to_device(make(), batch_sharded(local_mesh()), depth=3)
    assert on_device.get_state() == {"next_index": 0}
    assert_same([jax.device_get(batch) for batch in first(on_device, 1)], expected[:1])
    assert on_device.get_state() == {"next_index": 1}
    assert_same([jax.device_get(batch) for batch in first(on_device, 1)], expected[1:2])
    on_device.set_state({"next_index": 2})
    assert_same([jax.device_get(next(on_device))], expected[2:3])
    assert on_device.get_state() == {"next_index": 3}
    assert_same([jax.device_get(next(on_device))], expected[3:4])
    on_device.close()


def test_prefetch_to_device_ends_with_its_batches():
    indexs = grain.MapDataset.range(4).map(lambda index: {"index": np.int32(index)})
    batches = iter(indexs.batch(2).to_iter_dataset())
    on_device = prefetch_to_device(batches, batch_sharded(local_mesh()), depth=3)
    assert [batch["index"].tolist() for batch in on_device] == [[0, 1], [2, 3]]
