"""Flags and mistakes in them: `evaluate.py` as a process, the rest of it in this one."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.forked import Ended, run_program
from vitdeblur_jax import save_pretrained
from vitdeblur_jax.entry_points import exit_status
from vitdeblur_jax.errors import UserError

ROOT = Path(__file__).parents[1]
CONFIG = f"--config={ROOT / 'configs' / 'evaluate.py'}"


def run(folder: Path, *arguments: str) -> Ended:
    return run_program([ROOT / "evaluate.py", *arguments], folder)


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        ([CONFIG, "--workdir=w", "--config.checkpont=x"], 'no such key.*mean "checkpoint"'),
        ([CONFIG, "--workdir=w", "--config.stride=abc"], r"--config\.stride=abc: .*'abc'$"),
        ([CONFIG, "--workdir=w", "--strid=3"], "flag 'strid'"),
        ([CONFIG, "--workdir=w", "photographs"], "'photographs' is no flag"),
        ([CONFIG], "--workdir is missing"),
        (["--workdir=w", "--config.stride=3"], "--config is missing"),
        (["--config=missing.py", "--workdir=w"], "config file cannot be read.*'missing.py'$"),
        (["--config=empty.py", "--workdir=w"], "config file cannot be read.*'get_config'$"),
        ([CONFIG, "--workdir=w"], "--config.data_dir is missing"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, arguments, pattern):
    (tmp_path / "empty.py").touch()
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch("error: [^\n]*\n", done.stderr), done.stderr
    assert re.search(pattern, done.stderr.strip()), done.stderr
    assert not (tmp_path / "w").exists()


def test_help(tmp_path):
    done = run(tmp_path, "--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for word in ("evaluate.py", "--config=", "--config.KEY", "--workdir=", "Restores and measures"):
        assert word in done.stdout


def test_a_complete_run(tmp_path, small):
    save_pretrained(small, tmp_path / "small.safetensors")
    for folder in ("source", "target"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        Image.fromarray(np.zeros((45, 50, 3), np.uint8)).save(tmp_path / "data" / folder / "a.png")
    settings = ("checkpoint=small.safetensors", "data_dir=data", "stride=30")
    flags = (f"--config.{setting}" for setting in settings)
    done = run(tmp_path, f"{CONFIG}:pairs", "--workdir=w", *flags)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "1 of 1: a\nwritten: w/report.html\n"
    assert re.search(r"^output +\d", done.stdout, re.MULTILINE), done.stdout
    assert (tmp_path / "w" / "restored" / "a.png").exists()


def test_exit_status(capsys):
    def fail(error):
        raise error

    assert exit_status(lambda: None) == 0
    assert exit_status(lambda: 2) == 2
    assert capsys.readouterr().err == ""
    assert exit_status(lambda: fail(UserError("x.png: empty"))) == 2
    assert capsys.readouterr().err == "error: x.png: empty\n"
    assert exit_status(lambda: fail(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "interrupted\n"
    with pytest.raises(ValueError, match="a bug"):  # which is no mistake of the user's
        exit_status(lambda: fail(ValueError("a bug")))
