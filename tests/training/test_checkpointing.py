import functools
import json
import os
import resource
import shutil
import signal
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.forked import running
from tests.small_model import small_configuration
from vitdeblur_jax import UserError
from vitdeblur_jax.training.checkpointing import TrainingCheckpoints
from vitdeblur_jax.training.state import TrainState, create_state
from vitdeblur_jax.utils import signals

RESUME_STATE = {
    "next_step": 2**53 + 1,
    "window": {"sums": [0.1, 1e-310, -0.0, 1 / 3, float("inf")], "names": ["a", None]},
}


@functools.cache
def state_of_step(step: int, with_ema: bool = True, width: int = 40) -> TrainState:
    """Returns a state whose every leaf is random, and some values odd."""
    variables = {
        "params": {
            "encoder": {"kernel": np.zeros((width, 64)), "bias": np.zeros(7)},
            "head": {"kernel": np.zeros((3, 3, 1, 2)), "factor": np.zeros(())},
        },
        "batch_stats": {"mean": np.zeros(5)},
        "position_embedding": {"table": np.zeros((4, 6))},
    }
    decayed = {"encoder": {"kernel": True, "bias": False}}
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.partition({"a": optax.adamw(1e-3, mask=decayed)}, {"encoder": "a"}),
        optax.trace(0.9, accumulator_dtype=jnp.bfloat16),
    )
    trained = {"encoder": variables["params"]["encoder"]}
    shapes = jax.eval_shape(lambda: create_state(variables, trained, optimizer, with_ema))
    rng = np.random.default_rng(step)

    def fill(leaf):
        if leaf.dtype == jnp.int32:
            return jnp.asarray(step, jnp.int32)
        value = rng.standard_normal(leaf.shape).astype(leaf.dtype)
        value.reshape(-1)[:5] = [np.nan, -0.0, np.inf, 1e-42, 1][: value.size]
        return jnp.asarray(value)

    return jax.tree.map(fill, shapes)


def abstract(state: TrainState, sharding=None) -> TrainState:
    here = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), state)


def assert_same_bits(one: TrainState, other: TrainState):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def save(checkpoints: TrainingCheckpoints, state: TrainState, psnr: float | None = None):
    checkpoints.save(state, small_configuration().to_dict(), RESUME_STATE, psnr)


def save_steps(folder, *steps: int, keep: int = 9, **keywords):
    with TrainingCheckpoints(folder, keep) as checkpoints:
        for step in steps:
            save(checkpoints, state_of_step(step, **keywords))


def restore_newest(folder, **keywords) -> TrainState:
    """Returns the newest state, after comparing it with what was saved at its step."""
    with TrainingCheckpoints(folder, 9) as checkpoints:
        step = checkpoints.latest_step()
        expected = state_of_step(step, **keywords)
        state, resume_state = checkpoints.restore(step, abstract(expected))
    assert_same_bits(state, expected)
    assert json.dumps(resume_state) == json.dumps(RESUME_STATE)
    return state


def steps_in(folder) -> list[str]:
    return sorted(os.listdir(folder), key=lambda name: (len(name), name))


@pytest.mark.parametrize("with_ema", [True, False])
def test_a_state_comes_back_bit_for_bit(tmp_path, with_ema):
    save_steps(tmp_path / "checkpoints", 3, with_ema=with_ema)
    state = restore_newest(tmp_path / "checkpoints", with_ema=with_ema)
    assert (state.ema_params is not None) == with_ema
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("with_ema", [True, False])
def test_nothing_is_stored_twice(tmp_path, with_ema):
    state = state_of_step(1, with_ema=with_ema, width=5000)
    with TrainingCheckpoints(tmp_path, 1) as checkpoints:
        save(checkpoints, state)
    stored = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert 0.8 * needed < stored < 1.1 * needed


def test_a_new_folder_has_no_step(tmp_path):
    with TrainingCheckpoints(tmp_path / "checkpoints", 2) as checkpoints:
        assert checkpoints.latest_step() is None
        save(checkpoints, state_of_step(5))
        assert checkpoints.latest_step() == 5


@pytest.mark.parametrize(
    ("psnrs", "kept"),
    [
        ([None, None, None, None], ["3", "4"]),
        ([30.0, 29.0, 28.0, 27.0], ["1", "3", "4"]),
        ([None, 20.0, None, None, None], ["2", "4", "5"]),
        ([20.0, 30.0, None, None, 31.0, None, None], ["5", "6", "7"]),
        ([-3.0, -3.0, float("nan"), None], ["2", "3", "4"]),
    ],
)
def test_the_last_two_and_the_best_are_kept(tmp_path, psnrs, kept):
    measured = list(enumerate(psnrs, 1))
    for part in (measured[:2], measured[2:]):  # the second process knows of the first's best
        with TrainingCheckpoints(tmp_path, 2) as checkpoints:
            for step, psnr in part:
                save(checkpoints, state_of_step(step), psnr)
    assert steps_in(tmp_path) == kept


def test_a_checkpoint_that_is_not_complete_is_removed_and_told(tmp_path, capfd):
    (tmp_path / "5.orbax-checkpoint-tmp").mkdir()
    with TrainingCheckpoints(tmp_path, keep=1) as checkpoints:
        save(checkpoints, state_of_step(1))
    said = "note: the checkpoint of step {} was not complete and is removed; the run {}\n"
    assert capfd.readouterr().err == said.format(5, "starts anew")
    (tmp_path / "6.orbax-checkpoint-tmp").mkdir()
    with TrainingCheckpoints(tmp_path, keep=1):
        pass
    assert capfd.readouterr().err == said.format(6, "resumes from step 1")
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_a_saved_step_stays_as_it_is(tmp_path):
    with TrainingCheckpoints(tmp_path, 2) as checkpoints:
        save(checkpoints, state_of_step(1))
        other = state_of_step(2)
        save(checkpoints, other.replace(step=jnp.int32(1)))
    save_steps(tmp_path, 1)
    restore_newest(tmp_path)


def test_arrays_may_be_given_away_and_the_position_changed_after_save(tmp_path):
    @functools.partial(jax.jit, donate_argnums=0)
    def train_step(state):
        state = jax.tree.map(lambda x: (x * 0.5).astype(x.dtype) if x.ndim else x, state)
        return state.replace(step=state.step + 1)

    first = state_of_step(1, width=5000)
    state, copies, resume_state = jax.tree.map(jnp.copy, first), {}, {"next": [0]}
    with TrainingCheckpoints(tmp_path, 9) as checkpoints:
        for _ in range(4):
            copies[int(state.step)] = [np.array(leaf) for leaf in jax.tree.leaves(state)]
            resume_state["next"][0] = int(state.step)
            checkpoints.save(state, small_configuration().to_dict(), resume_state)
            resume_state["next"][0] = None
            for _ in range(3):
                state = train_step(state)
    with TrainingCheckpoints(tmp_path, 9) as checkpoints:
        for step, leaves in copies.items():
            saved = jax.tree.unflatten(jax.tree.structure(first), map(jnp.asarray, leaves))
            state, resume_state = checkpoints.restore(step, abstract(first))
            assert_same_bits(state, saved)
            assert resume_state == {"next": [step]}
            # What is restored may be given away as well.
            assert_same_bits(train_step(state), train_step(saved))


def _save_from_four_devices(folder):
    jax.config.update("jax_num_cpu_devices", 4)
    mesh = jax.make_mesh((2, 2), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    spread, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("fsdp",), ()))

    def placed(leaf):
        return spread if leaf.ndim == 2 and leaf.shape[0] % 2 == 0 else whole

    state = state_of_step(1, with_ema=False)
    state = jax.device_put(state, jax.tree.map(placed, state))
    with TrainingCheckpoints(folder, 2) as checkpoints:
        with jax.transfer_guard_host_to_device("disallow"):
            save(checkpoints, state)
        wanted = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed(x)), state
        )
        restored, _ = checkpoints.restore(1, wanted)
    assert_same_bits(restored, state)
    assert all(x.sharding == placed(x) for x in jax.tree.leaves(restored))


def test_a_state_of_four_devices_is_restored_there_and_on_one(tmp_path):
    with running(_save_from_four_devices, tmp_path / "run", stderr=tmp_path / "said") as process:
        process.join(60)
    assert (process.exitcode, (tmp_path / "said").read_text()) == (0, "")
    restore_newest(tmp_path / "run", with_ema=False)


def _save_and_die(folder, number):
    """Dies at a touch of the disk, counted from the second save on; tells how many there were."""
    save_steps(folder, 1, keep=1)
    touches = 0

    def die_in_time(event, arguments):
        nonlocal touches
        here = event == "open" and str(folder) in str(arguments[0])
        if here or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"):
            touches += 1
            if touches == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(die_in_time)
    save_steps(folder, 2, keep=1)
    (folder.parent / "touches").write_text(str(touches))


def test_killed_at_any_time_a_whole_checkpoint_is_left(tmp_path):
    with running(_save_and_die, tmp_path / "run", 0) as process:
        process.join(60)
    assert steps_in(tmp_path / "run") == ["2"]
    touches = int((tmp_path / "touches").read_text())
    found = set()
    for number in np.linspace(1, 0.9 * touches, 6).astype(int):  # threads do not always touch alike
        folder = tmp_path / f"run_{number}"
        with running(_save_and_die, folder, number) as process:
            process.join(60)
        assert process.exitcode == -signal.SIGKILL
        found.add(int(restore_newest(folder).step))
        save_steps(folder, 3, keep=1)
        assert steps_in(folder) == ["3"]
    assert found == {1, 2}


def _fill_the_disk(folder, told, at_next_save):
    signals.listen()  # as a command: after an error, its process stays silent
    save_steps(folder, 1, width=5000)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with TrainingCheckpoints(folder, 1) as checkpoints:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, unlimited[1]))
            save(checkpoints, state_of_step(2, width=5000))
            if at_next_save:
                save(checkpoints, state_of_step(3, width=5000))
    except UserError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        told.write_text(str(error))


@pytest.mark.parametrize("at_next_save", [True, False])
def test_a_disk_that_refuses_is_told_and_earlier_checkpoints_are_whole(tmp_path, at_next_save):
    folder, told, said = tmp_path / "run", tmp_path / "told", tmp_path / "said"
    with running(_fill_the_disk, folder, told, at_next_save, stderr=said) as process:
        process.join(60)
    assert process.exitcode == 0
    assert "step 2 cannot be written" in told.read_text()
    assert "File too large" in told.read_text()
    assert len(told.read_text().splitlines()) == 1
    assert said.read_text() == ""
    restore_newest(folder, width=5000)
    save_steps(folder, 2, width=5000, keep=1)
    assert steps_in(folder) == ["2"]


def test_a_disk_too_small_is_told_before_anything_is_written(tmp_path, monkeypatch):
    save_steps(tmp_path, 1)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1_000_000))
    with pytest.raises(UserError, match=r"needs \d\.\d MB, 1\.0 MB are free"):
        save_steps(tmp_path, 2, width=5000)
    assert steps_in(tmp_path) == ["1"]


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("resume_state/metadata", "shortened"),
        ("variables/_METADATA", "removed"),
        ("training/_METADATA", "shortened"),
        ("training/manifest.ocdbt", "removed"),
        ("largest", "shortened"),
    ],
)
def test_a_damaged_step_is_told_and_the_one_before_is_used(tmp_path, name, how, capfd):
    save_steps(tmp_path, 1, 2)
    files = [file for file in (tmp_path / "2").rglob("*") if file.is_file()]
    file = max(files, key=os.path.getsize) if name == "largest" else tmp_path / "2" / name
    if how == "removed":
        file.unlink()
    else:
        os.truncate(file, file.stat().st_size // 2)
    told = rf"step 2 cannot be read; .* delete {tmp_path}/2, and the run resumes from step 1 \(\w+"
    with pytest.raises(UserError, match=told) as refusal:
        restore_newest(tmp_path)
    assert "\n" not in str(refusal.value)
    shutil.rmtree(tmp_path / "2")
    restore_newest(tmp_path)
    assert capfd.readouterr().err == ""


def test_a_flipped_bit_in_a_step_is_told(tmp_path):
    save_steps(tmp_path, 1)
    data = [file for file in (tmp_path / "1").rglob("d/*") if file.stat().st_size > 1000]
    for item in ("variables", "training"):
        file = max((f for f in data if item in f.parts), key=os.path.getsize)
        sound = file.read_bytes()
        middle = len(sound) // 2
        file.write_bytes(sound[:middle] + bytes([sound[middle] ^ 1]) + sound[middle + 1 :])
        with pytest.raises(UserError, match=rf"step 1 cannot be read; .* delete {tmp_path}/1"):
            restore_newest(tmp_path)
        file.write_bytes(sound)
    restore_newest(tmp_path)


def test_a_step_with_other_values_than_its_checksums_is_told(tmp_path):
    save_steps(tmp_path, 1)
    path = tmp_path / "1" / "config" / "metadata"
    config = json.loads(path.read_text())
    for item in ("variables", "training"):
        changed = {**config, "checksums": {**config["checksums"], item: "0" * 16}}
        path.write_text(json.dumps(changed))
        with pytest.raises(UserError, match=rf"the checksum of its {item} data differs"):
            restore_newest(tmp_path)


def test_a_damaged_psnr_is_told_with_its_step(tmp_path):
    with TrainingCheckpoints(tmp_path, 2) as checkpoints:
        save(checkpoints, state_of_step(1), 30.0)
    (tmp_path / "1" / "metrics" / "metrics").write_text('{"psnr":')
    with pytest.raises(UserError, match=rf"delete {tmp_path}/1"):
        save_steps(tmp_path, 2)


def test_another_model_or_optimizer_is_refused(tmp_path):
    save_steps(tmp_path, 1)
    other = abstract(state_of_step(1, width=41))
    missing = abstract(state_of_step(1)).replace(opt_state=None)
    missing_averages = abstract(state_of_step(1)).replace(ema_params=None)
    too_much = abstract(state_of_step(1)).replace(
        opt_state=optax.adam(1e-3).init(state_of_step(1).params)
    )
    with TrainingCheckpoints(tmp_path, 1) as checkpoints:
        for wanted, told in [
            (other, r"encoder/kernel is \(40, 64\), should be \(41, 64\)"),
            (missing, "training/opt_state/.* has no place in it"),
            (too_much, "training/opt_state/.* is missing"),
            (missing_averages, "training/params/.* has no place in it"),
        ]:
            with pytest.raises(UserError, match=f"/1 belongs to another model or .*{told}"):
                checkpoints.restore(1, wanted)


def test_a_folder_that_cannot_be_is_told(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "checkpoints"):
        with pytest.raises(UserError, match="the folder cannot be used") as refusal:
            TrainingCheckpoints(folder, 1)
        assert "\n" not in str(refusal.value)


def test_nothing_is_said_where_nothing_is_wrong(tmp_path, capfd):
    with TrainingCheckpoints(tmp_path, 1) as checkpoints:
        save(checkpoints, state_of_step(1), 30.0)
        save(checkpoints, state_of_step(2))
    restore_newest(tmp_path)
    assert capfd.readouterr() == ("", "")
