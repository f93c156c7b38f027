"""Real processes on this machine, over the loopback: one run, whatever becomes of one of them."""

import json
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.training.several_processes import Ended, end, free_port, restored, start
from tests.training.small_run import images
from vitdeblur_jax.checkpoints.orbax_folders import step_folders
from vitdeblur_jax.distributed.processes import SECONDS_TO_GATHER
from vitdeblur_jax.utils.buckets import AnyPath

CONFIG = "tests/training/small_run.py"
LOST = (75, -signal.SIGABRT)  # statuses of one that has lost another: told by us, or by JAX
BETWEEN = 60  # seconds, within which the death of one process ends the others

pytestmark = pytest.mark.slow


def train(pairs: Path, workdir: AnyPath, kind: str) -> list[str]:
    """Returns train.py and its arguments: `quick` or `small` of the config, validated."""
    values = {
        "data.root": pairs,
        "num_steps": 10,
        "save_every": 5,
        "validation.every": 10,
        "validation.root": pairs / "val",
        "log_every": 1,
        "optimizer.epsilon": 1e-5,  # Adam would blow up gradients that are but rounding
    }
    flags = [f"--config.{key}={value}" for key, value in values.items()]
    return ["train.py", f"--config={CONFIG}:{kind}", *flags, f"--workdir={workdir}"]


def run(count: int, pairs: Path, workdir: Path, kind: str = "quick", **settings) -> list[Ended]:
    output = workdir.with_name(f"{workdir.name}_output")
    program = train(pairs, workdir, kind)
    return end(start(count, program, output, **settings), output)


def losses(workdir: Path) -> list[float]:
    lines = map(json.loads, (workdir / "log.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["kind"] == "train"]


def assert_all(ended: list[Ended], status: int = 0) -> None:
    assert [process.status for process in ended] == [status] * len(ended), ended


def assert_equal(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


@pytest.fixture(scope="module")
def finished(pairs, tmp_path_factory):
    """Workdirs of the small model's run, by the number of processes."""
    folder = tmp_path_factory.mktemp("finished")
    for count in (1, 4):
        assert_all(run(count, pairs, folder / str(count), "small"))
    return {count: folder / str(count) for count in (1, 4)}


def test_the_time_limit_ends_all_processes_at_the_same_step(pairs, tmp_path):
    flags = {"num_steps": 100_000, "time_limit_s": 15.0, "optimizer.schedule": "wsd"}
    flags |= {"log_every": 50_000, "save_every": 50_000, "validation.every": 50_000}
    program = train(pairs, tmp_path / "run", "quick")
    program += [f"--config.{key}={value}" for key, value in flags.items()]
    assert_all(end(start(2, program, tmp_path / "output"), tmp_path / "output"))
    lines = (tmp_path / "run/log.jsonl").read_text().splitlines()
    last = [line for line in map(json.loads, lines) if line["kind"] == "train"][-1]
    assert last["learning_rate"] == 0
    assert list(step_folders(tmp_path / "run/checkpoints")) == [0, last["step"]]


def test_four_processes_train_as_one_does(finished):
    np.testing.assert_allclose(losses(finished[4]), losses(finished[1]), rtol=1e-5)
    one, several = (restored(finished[count], 10) for count in (1, 4))
    assert one.keys() == several.keys()
    for name, value in one.items():
        np.testing.assert_allclose(several[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
    validated = [
        [line for line in (folder / "log.jsonl").read_text().splitlines() if '"validation"' in line]
        for folder in (finished[1], finished[4])
    ]
    (alone,), (shared_out,) = ([json.loads(line) for line in lines] for lines in validated)
    for name in ("psnr", "ssim", "mae", "input_psnr"):
        np.testing.assert_allclose(shared_out[name], alone[name], rtol=1e-4, err_msg=name)


def test_the_checkpoint_of_four_is_restored_bitwise_on_others(finished, tmp_path):
    wanted = restored(finished[4], 5)
    for count, devices in ((2, 1), (1, 8)):
        out = tmp_path / f"{count}x{devices}.npz"
        program = ["-m", "tests.training.several_processes", str(finished[4]), "5", str(out)]
        ended = end(
            start(count, program, tmp_path / "output", devices),
            tmp_path / "output",
        )
        assert_all(ended)
        assert_equal(dict(np.load(out)), wanted)


def _kill(process, number, workdir, step):
    """Sends a signal to a process when a step is logged."""
    deadline = time.monotonic() + 200
    while len(_logged(workdir)) < step:
        assert process.is_alive(), "ended early"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, number)


def _logged(workdir):
    log = workdir / "log.jsonl"
    return log.read_text().splitlines() if log.exists() else []


@pytest.fixture(scope="module")
def undisturbed(pairs, tmp_path_factory):
    """All that two processes save of the quick run's last step."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    assert_all(run(2, pairs, workdir))
    return restored(workdir, 10)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others_and_the_run_goes_on(pairs, undisturbed, tmp_path, victim):
    output, program = tmp_path / "output", train(pairs, tmp_path / "run", "quick,pause,0.5")
    started = start(2, program, output)
    _kill(started[victim], signal.SIGKILL, tmp_path / "run", 7)
    killed = time.monotonic()
    ended = end(started, output, BETWEEN)
    assert time.monotonic() - killed < BETWEEN
    assert ended[victim].status == -signal.SIGKILL
    survivor = ended[1 - victim]
    assert survivor.status in LOST
    told = f"process {1 - victim} of 2 lost the connection|another task died"
    assert re.search(told, survivor.output)
    assert_all(run(2, pairs, tmp_path / "run"))
    assert_equal(restored(tmp_path / "run", 10), undisturbed)


def test_sigterm_to_one_saves_and_ends_all(pairs, undisturbed, tmp_path):
    output, program = tmp_path / "output", train(pairs, tmp_path / "run", "quick,pause,0.5")
    started = start(2, program, output)
    _kill(started[1], signal.SIGTERM, tmp_path / "run", 2)
    assert_all(end(started, output), 128 + signal.SIGTERM)
    step = max(step_folders(tmp_path / "run/checkpoints"))
    assert 2 <= step < 10  # one that both agreed upon
    assert f"saved at step {step}" in (output / "0.txt").read_text()
    assert_all(run(2, pairs, tmp_path / "run"))
    assert_equal(restored(tmp_path / "run", 10), undisturbed)


def test_a_process_that_is_wrong_ends_all_with_its_reason(pairs, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/log.jsonl").write_text("")  # of a run without a config
    first, second = run(2, pairs, tmp_path / "run")
    assert first.status == second.status == 2
    assert "holds log.jsonl of a run, but not its config.json" in first.output
    assert "Traceback" not in first.output + second.output


@pytest.mark.parametrize("has_checkpoint", [False, True])
def test_workdirs_that_are_not_shared_are_told(pairs, tmp_path, has_checkpoint):
    """As on two machines whose disks are their own."""
    if has_checkpoint:
        (tmp_path / "run1/checkpoints/5").mkdir(parents=True)
        (tmp_path / "run1/config.json").write_text("{}")
    with_own_workdir = (
        "import runpy, sys; sys.argv[0] = 'train.py';"
        f"sys.argv.append('--workdir={tmp_path}/run' + sys.argv[-1][-1]);"  # --process=INDEX
        "runpy.run_path('train.py', run_name='__main__')"
    )
    _, *flags, _ = train(pairs, tmp_path, "quick")
    output = tmp_path / "output"
    ended = end(start(2, ["-c", with_own_workdir, *flags], output), output, BETWEEN)
    assert_all(ended, 2)
    assert "must be on a disk that all machines share" in ended[1].output
    assert "Traceback" not in ended[0].output + ended[1].output


def test_a_cluster_that_does_not_come_together_is_told(tmp_path):
    program = (
        "import vitdeblur_jax.distributed.processes as p;"
        "p.SECONDS_TO_GATHER = 5; p.join_others(*{!r})"
    )
    place = (f"127.0.0.1:{free_port()}", 2, 1)
    begun = time.monotonic()
    (alone,) = end(start(1, ["-c", program.format(place)], tmp_path), tmp_path)
    assert time.monotonic() - begun < 60
    assert alone.status == 75
    assert re.search(
        r"error: process 1 of 2: not all processes connected .* within 5 s", alone.output
    )


def test_killed_at_random_moments_it_ends_as_if_undisturbed(pairs, undisturbed, tmp_path):
    """As often as VITDEBLUR_KILLS says; 2 by default, for each takes half a minute."""
    rng, workdir, killed = random.Random(0), tmp_path / "run", 0
    wanted = int(os.environ.get("VITDEBLUR_KILLS", "2"))
    for attempt in range(5 * wanted):
        output = tmp_path / f"output{attempt}"
        program = train(pairs, workdir, "quick,pause,1")
        started = start(2, program, output)
        time.sleep(rng.uniform(8, 20))
        victim = rng.randrange(2)
        started[victim].kill()
        begun = time.monotonic()
        ended = end(started, output, SECONDS_TO_GATHER + BETWEEN)  # it may not have joined yet
        is_complete = 10 in step_folders(workdir / "checkpoints")
        if ended[victim].status == -signal.SIGKILL:
            killed += 1
            assert ended[1 - victim].status in ((0, *LOST) if is_complete else LOST), ended
        seconds, step = time.monotonic() - begun, len(_logged(workdir))
        print(f"{killed}: {victim} at step {step}, {seconds:.0f} s:", *(e.status for e in ended))
        if is_complete:
            assert_all(run(2, pairs, workdir))
            assert_equal(restored(workdir, 10), undisturbed)
            shutil.rmtree(workdir)
        if killed == wanted:
            break
    assert killed == wanted
    assert_all(run(2, pairs, workdir))
    assert_equal(restored(workdir, 10), undisturbed)


@pytest.fixture(scope="module")
def six_pairs(tmp_path_factory):
    return images(tmp_path_factory.mktemp("six_pairs"), count=6)


def test_evaluate_shares_out_and_gives_the_same_files(six_pairs, tmp_path):
    found = {}
    for count in (1, 2, 4):
        folder = tmp_path / str(count)
        program = [
            "evaluate.py",
            "--config=configs/evaluate.py:pairs",
            f"--config.data_dir={six_pairs}",
            f"--workdir={folder}",
        ]
        output = tmp_path / f"output{count}"
        assert_all(end(start(count, program, output), output))
        found[count] = _evaluated(folder)
    assert len(found[1][1]) == 6
    assert found[1] == found[2] == found[4]


def test_a_killed_evaluation_goes_on(six_pairs, tmp_path):
    program = [
        "evaluate.py",
        "--config=configs/evaluate.py:pairs",
        f"--config.data_dir={six_pairs}",
        f"--workdir={tmp_path / 'out'}",
    ]
    started = start(2, program, tmp_path / "output")
    deadline = time.monotonic() + 200
    while not (tmp_path / "out/metrics.part-1.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    started[1].kill()
    first, _ = end(started, tmp_path / "output", 200)
    assert first.status != 0
    done = _written(tmp_path / "out/restored")
    assert done
    started = start(1, program, tmp_path / "output")
    assert_all(end(started, tmp_path / "output"))
    now = _written(tmp_path / "out/restored")
    assert len(now) == 6
    kept = [name for name in done if now[name] == done[name]]
    assert len(kept) >= len(done) - 2  # those at hand when they ended, at the most
    assert not list((tmp_path / "out").glob("metrics.part-*"))


def _written(folder: Path) -> dict[str, int]:
    # A killed process leaves the hidden part of a file behind.
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("[!.]*")}


def _evaluated(folder: Path) -> tuple[str, dict[str, bytes]]:
    contents = json.loads((folder / "metrics.json").read_text())
    del contents["versions"]["devices"]  # of all processes
    text = json.dumps(contents).replace(str(folder), "")
    text = re.sub(r'"seconds": [\d.]+|seconds an image, for restoring alone: [\d.]+', "", text)
    pictures = {path.name: path.read_bytes() for path in (folder / "restored").iterdir()}
    return text, pictures


def test_folders_of_images_are_shared_out(six_pairs, tmp_path):
    found = {}
    for count in (1, 3):
        folder, output = tmp_path / str(count), tmp_path / f"output{count}"
        program = ["-m", "vitdeblur_jax.cli.main", str(six_pairs / "blurred"), "-o", f"{folder}/"]
        assert_all(end(start(count, program, output), output))
        found[count] = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(found[1]) == 6
    assert found[1] == found[3]
