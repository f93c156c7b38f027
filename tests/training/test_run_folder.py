import errno
import json
import os
import signal
import subprocess
import sys
import time

import jax
import ml_collections
import pytest

from tests.forked import running
from vitdeblur_jax import UserError
from vitdeblur_jax.training.run_folder import run_folder, write_config

FREE = ("data.workers", "validation")


def config(**changes) -> ml_collections.ConfigDict:
    made = ml_collections.ConfigDict(
        {
            "num_steps": 100,
            "progressive": ((0, 64), (50, 96)),
            "data": {"root": "/images", "workers": 2},
            "validation": {"every": 10, "num_images": 8},
            "optimizer": {"name": "adamw", "learning_rate": 2e-4, "b1": 0.9, "b2": 0.95},
        }
    )
    made.initial = changes.pop("initial", {"checkpoint": ""})
    made.update_from_flattened_dict({key.replace("__", "."): v for key, v in changes.items()})
    return made


def open_and_close(folder, **changes):
    with run_folder(folder, config(**changes), FREE, config()):
        pass


def test_a_new_folder_holds_config_and_versions(tmp_path):
    with run_folder(tmp_path / "runs" / "first", config(), FREE, config()) as folder:
        assert folder == tmp_path / "runs" / "first"
        text = (folder / "config.json").read_text()
        assert json.loads(text)["optimizer"]["learning_rate"] == 2e-4
        assert list(json.loads(text)) == sorted(config())
        versions = json.loads((folder / "versions.json").read_text())
        assert versions["jax"] == jax.__version__
        assert versions["python"] == sys.version.split()[0]
        assert versions["devices"] == len(jax.devices())
        assert f"process {os.getpid()} on " in (folder / "lock").read_text()


def test_the_same_run_goes_on_with_other_values_of_free_keys(tmp_path):
    open_and_close(tmp_path)
    open_and_close(tmp_path, data__workers=0, validation__every=5, validation__num_images=2)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["data"] == {"root": "/images", "workers": 0}
    assert saved["validation"] == {"every": 5, "num_images": 2}


def test_another_config_is_refused_with_the_differences(tmp_path):
    open_and_close(tmp_path)
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(UserError) as refusal:
        open_and_close(
            tmp_path,
            data__workers=0,
            data__root="/others",
            progressive=((0, 64), (50, 128)),
            optimizer__learning_rate=1e-3,
        )
    assert str(refusal.value) == (
        f"the workdir {tmp_path} holds a run with another config "
        '(data.root: "/images" -> "/others"; '
        "optimizer.learning_rate: 0.0002 -> 0.001; "
        "progressive: [[0, 64], [50, 96]] -> [[0, 64], [50, 128]]); choose another --workdir; "
        f"--config.initial.checkpoint={tmp_path} starts it from this run's weights"
    )
    assert (tmp_path / "config.json").read_text() == before


def test_the_query_of_an_address_is_not_kept_and_may_change(tmp_path):
    address = "https://example.org/net.pth{}#sha256=0123"
    open_and_close(tmp_path, initial={"checkpoint": address.format("?token=secret")})
    assert "secret" not in (tmp_path / "config.json").read_text()
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    for query in ("?token=secret", "?token=secret2", ""):
        open_and_close(tmp_path, initial={"checkpoint": address.format(query)})
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["initial"] == {"checkpoint": address.format("")}
    with pytest.raises(UserError, match="with another config") as refusal:
        open_and_close(tmp_path, initial={"checkpoint": "https://example.org/b?token=secret"})
    assert "secret" not in str(refusal.value)


def test_a_key_that_an_earlier_version_did_not_have_has_its_default(tmp_path):
    earlier = config()
    del earlier.optimizer.b2
    with run_folder(tmp_path, earlier, FREE, config()):
        (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    with pytest.raises(UserError, match=r"another config \(optimizer.b2: 0.95 -> 0.5\);"):
        open_and_close(tmp_path, optimizer__b2=0.5)
    open_and_close(tmp_path)


def test_a_resumed_run_keeps_its_config_until_all_checks_pass(tmp_path):
    open_and_close(tmp_path)
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    before = [(tmp_path / name).read_bytes() for name in ("config.json", "versions.json")]
    open_and_close(tmp_path, data__workers=0)
    assert [(tmp_path / name).read_bytes() for name in ("config.json", "versions.json")] == before
    write_config(tmp_path, config(data__workers=0))
    assert json.loads((tmp_path / "config.json").read_text())["data"]["workers"] == 0


def test_only_five_of_many_differences_are_shown(tmp_path):
    open_and_close(tmp_path)
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    other = config(num_steps=200, data__root="", optimizer__name="muon", optimizer__b1=0.8)
    other.optimizer.learning_rate = 1.0
    other.optimizer.b2 = 0.5
    del other.progressive
    other.more = 1
    with (
        pytest.raises(UserError, match=r"more: absent -> 1; .*b1.*; and 3 more\); choose"),
        run_folder(tmp_path, other, FREE, config()),
    ):
        pass


def test_a_free_key_is_no_prefix_of_another_key(tmp_path):
    open_and_close(tmp_path)
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    other = config()
    other.validation_seed = 3
    with (
        pytest.raises(UserError, match="validation_seed: absent -> 3"),
        run_folder(tmp_path, other, FREE, config()),
    ):
        pass


def test_without_a_checkpoint_another_config_takes_the_folder(tmp_path):
    open_and_close(tmp_path)
    (tmp_path / "checkpoints" / "5.orbax-checkpoint-tmp").mkdir(parents=True)
    open_and_close(tmp_path, data__root="/others")
    assert json.loads((tmp_path / "config.json").read_text())["data"]["root"] == "/others"


def test_a_damaged_config_is_told(tmp_path):
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    for text in ("{broken", "[]", "\x00", "null", '"x"', "[" * 100_000, '{"a":' * 100_000):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match=r"config.json: .*JSON.*another --workdir"):
            open_and_close(tmp_path)


def _hold(folder, ready):
    with run_folder(folder, config(), FREE, config()):
        ready.touch()
        time.sleep(600)


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path):
    folder, ready = tmp_path / "run", tmp_path / "ready"
    with running(_hold, folder, ready) as first:
        while not ready.exists():
            time.sleep(0.01)
        with pytest.raises(UserError, match=rf"in use by process {first.pid} on \S+; wait .*stop"):
            open_and_close(folder)
        os.kill(first.pid, signal.SIGKILL)
        first.join()
        open_and_close(folder)


def test_a_program_that_outlives_the_run_does_not_hold_the_folder(tmp_path):
    with run_folder(tmp_path, config(), FREE, config()):
        program = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        open_and_close(tmp_path)
        assert program.poll() is None
    finally:
        program.communicate(b"\n")


def test_a_disk_without_locks_is_told_and_used(tmp_path, monkeypatch, capsys):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    open_and_close(tmp_path)
    assert "cannot be locked (No locks available)" in capsys.readouterr().err


def test_what_cannot_be_a_workdir_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for workdir in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / ("n" * 300)):
        with pytest.raises(UserError, match=r"the workdir .* cannot be used") as refusal:
            open_and_close(workdir)
        assert "\n" not in str(refusal.value)

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("os.mkdir", refuse)
    with pytest.raises(UserError, match="Permission denied"):
        open_and_close(tmp_path / "run")


def test_results_without_a_config_are_left_alone(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "log.jsonl").touch()
    with pytest.raises(
        UserError, match=r"holds log.jsonl, checkpoints of a run, but not its config"
    ):
        open_and_close(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["checkpoints", "log.jsonl"]


@pytest.mark.parametrize("name", ["photo.JPG", "metrics.json"])
def test_images_and_results_are_no_workdir(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=rf"holds {name}, which is not of a training run; choose"):
        open_and_close(tmp_path)
    assert os.listdir(tmp_path) == [name]


def test_the_folder_of_the_data_is_no_workdir(tmp_path):
    (tmp_path / "source").mkdir()
    for data in ({"root": str(tmp_path)}, {"root": "", "sets": {"a": {"root": str(tmp_path)}}}):
        changed = config()
        changed.data = ml_collections.ConfigDict(data)
        with pytest.raises(UserError, match="is the folder of the data; choose another --workdir"):
            run_folder(tmp_path, changed, FREE, config()).__enter__()
    assert os.listdir(tmp_path) == ["source"]


def test_a_run_keeps_its_folder_with_images_in_it(tmp_path):
    open_and_close(tmp_path)
    (tmp_path / "curve.png").touch()
    open_and_close(tmp_path)


def test_a_folder_may_hold_other_things(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    open_and_close(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
