"""Flags and config files of `evaluate.py`, and errors in them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags
from PIL import Image

from tests.forked import Ended, run_program
from vitdeblur_jax import save_pretrained
from vitdeblur_jax.cli.process import exit_status, find_devices
from vitdeblur_jax.cli.with_config import _parse_flags
from vitdeblur_jax.training.lr_mults import RULE
from vitdeblur_jax.utils.errors import UserError

ROOT = Path(__file__).parents[2]
CONFIG = f"--config={ROOT / 'configs' / 'evaluate.py'}"


def run(folder: Path, *arguments: str) -> Ended:
    return run_program([ROOT / "evaluate.py", *arguments], folder)


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        ([CONFIG, "--workdir=w", "--config.checkpont=x"], "no key 'checkpont' .*mean 'checkpoint'"),
        ([CONFIG, "--workdir=w", "--config.stride=abc"], r"--config\.stride=abc: .*'abc'$"),
        ([CONFIG, "--workdir=w", "--strid=3"], "flag 'strid'"),
        ([CONFIG, "--workdir=w", "images"], "'images' is not a flag"),
        ([CONFIG], "--workdir is missing"),
        (["--workdir=w", "--config.stride=3"], "--config is missing"),
        (
            ["--config=missing.py", "--workdir=w"],
            "config file missing.py cannot be read.*'missing.py'$",
        ),
        (
            ["--config=empty.py", "--workdir=w"],
            r"empty.py has no function get_config\(\)$",
        ),
        ([CONFIG, "--workdir=w"], "--config.data_dir is missing"),
    ],
)
def test_a_mistake_in_flags_is_one_error_line(tmp_path, arguments, pattern):
    (tmp_path / "empty.py").touch()
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch("error: [^\n]*\n", done.stderr), done.stderr
    assert re.search(pattern, done.stderr.strip()), done.stderr
    assert not (tmp_path / "w").exists()


@pytest.fixture
def parse(tmp_path, monkeypatch):
    """Returns a function from the text of a config file, and flags, to the exit status."""

    def parse(text, *arguments):
        (tmp_path / "mine.py").write_text(text)
        values = flags.FlagValues()
        config = config_flags.DEFINE_config_file("config", flag_values=values)
        workdir = flags.DEFINE_string("workdir", None, "", flag_values=values)
        flags.DEFINE_integer("verbosity", 0, "", flag_values=values)
        monkeypatch.setattr(flags, "FLAGS", values)
        given = ["train.py", "--config=mine.py", "--workdir=w", *arguments]
        monkeypatch.setattr(sys, "argv", given)  # where ml_collections looks for what is overridden
        return exit_status(lambda: _parse_flags(given, config, workdir, ("config", "workdir")))

    monkeypatch.chdir(tmp_path)
    return parse


BODY = "from ml_collections import ConfigDict\ndef get_config():\n    "


@pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections calls it
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nx / 0", "mine.py, line 2: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(3)", "mine.py, line 2: SystemExit: 3"),
        ("raise SystemExit", "mine.py, line 1: SystemExit: "),
        (
            "import nosuchmodule",
            "mine.py, line 1: ModuleNotFoundError: No module named",
        ),
        ("assert False, 'two\\nlines'", "mine.py, line 1: AssertionError: two lines"),
        (f"{BODY}int('a')", "mine.py, line 3: ValueError: invalid literal for int() with base 10"),
        (f"{BODY}len(1)", "mine.py, line 3: TypeError: object of type 'int' has no len()"),
        (f"{BODY}open('gone')", "mine.py, line 3: FileNotFoundError: [Errno 2] No such file or"),
        (f"{BODY}b'\\xff'.decode()", "mine.py, line 3: UnicodeDecodeError: 'utf-8' codec can't"),
        (f"{BODY}return {{}}['a']", "mine.py, line 3: KeyError: a"),
        (f"{BODY}raise RuntimeError", "mine.py, line 3: RuntimeError"),
        (f"{BODY}exit(0)", "mine.py, line 3: SystemExit: 0"),
        (
            "from vitdeblur_jax.utils.errors import UserError\nraise UserError('no such variant')",
            "error: mine.py, line 2: no such variant",
        ),
        ("open('gone')", "the config file mine.py cannot be read: [Errno 2] No such file or dir"),
        (
            f"{BODY}return {{}}",
            "error: the config file's get_config() returns dict; it must return",
        ),
        (f"{BODY}pass", "get_config() returns NoneType; it must"),
        ("def get_config(:", "(mine.py, line 1)"),
    ],
)
def test_an_exception_in_a_config_file_is_reported_with_its_line(parse, capsys, text, message):
    assert parse(text) == 2
    told = capsys.readouterr().err
    assert re.fullmatch("error: [^\n]*\n", told), told
    assert message in told


NESTED = f"{BODY}return ConfigDict({{'a': {{'learning_rate': 1.0, 'parts': {{'x': 1}}}}}})"


@pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections calls it
@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.a.lr=1", "no key 'a.lr'; the keys are learning_rate, parts"),
        ("--config.a.learnig_rate=1", "no key 'a.learnig_rate' (did you mean 'a.learning_rate'?)"),
        ("-config.a.parts.y=1", "no key 'a.parts.y'; the keys are x"),
        ("--config.b=1", "no key 'b'; the keys are a"),
        ("--config.a.learning_rate=x", "could not convert string to float: 'x'"),
    ],
)
def test_an_unknown_key_is_reported_with_the_keys_of_its_group(parse, capsys, flag, message):
    assert parse(NESTED, flag) == 2
    told = capsys.readouterr().err
    assert re.fullmatch("error: [^\n]*\n", told), told
    assert message in told


@pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections calls it
def test_a_tilde_is_the_home_folder(parse, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    text = f"{BODY}return ConfigDict({{'root': '~/photos', 'data': {{'root': '', 'x': '~y/z'}}}})"
    assert parse(text, "--workdir=~/run", "--config.data.root=~/dpdd") == 0
    config = flags.FLAGS["config"].value
    assert flags.FLAGS["workdir"].value == "/home/me/run"
    expected = {"root": "/home/me/photos", "data": {"root": "/home/me/dpdd", "x": "~y/z"}}
    assert config.to_dict() == expected


@pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections calls it
def test_learning_rate_multipliers_are_set_on_the_command_line(parse):
    text = "from vitdeblur_jax.training.defaults import default_config as get_config"
    lr_mults = '(("tokenizer/.*", 0), ("primary_encoder/.*", 0.1))'
    assert parse(text, f"--config.optimizer.lr_mults={lr_mults}") == 0
    config = flags.FLAGS["config"].value
    assert config.optimizer.lr_mults == (("tokenizer/.*", 0), ("primary_encoder/.*", 0.1))
    assert RULE.accepts(json.loads(json.dumps(config.to_dict()))["optimizer"]["lr_mults"])


@pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections calls it
def test_a_valid_config_file_and_sys_exit_pass_through(parse):
    assert parse(f"{BODY}return ConfigDict({{'num_steps': 1}})", "--config.num_steps=2") == 0
    with pytest.raises(SystemExit):
        exit_status(lambda: sys.exit(3))


def test_help(tmp_path):
    done = run(tmp_path, "--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for word in ("evaluate.py", "--config=", "--config.KEY", "--workdir=", "Evaluates a model"):
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
    # On a busy machine, a line about waiting comes between.
    assert re.search(r"\n1 of 1: a\n(waited .*\n)?written: w/report.html\n\Z", done.stderr)
    assert re.search(r"^output +\d", done.stdout, re.MULTILINE), done.stdout
    assert (tmp_path / "w" / "restored" / "a.png").exists()


@pytest.mark.parametrize(
    ("platforms", "error", "expected"),
    [
        ("banana", RuntimeError("Unable to initialize backend 'banana'"), "JAX_PLATFORMS=banana"),
        ("cuda", AssertionError(), "JAX_PLATFORMS=cuda"),
        ("cuda", None, "JAX_PLATFORMS=cuda (no plug-in for cuda is installed); unset it"),
        ("", RuntimeError("the TPU is in use"), r"JAX cannot use a device (the TPU is in use)"),
    ],
)
def test_a_missing_device_is_reported_with_its_environment_variable(
    monkeypatch, platforms, error, expected
):
    """Replaces `jax.devices`, because the tests run on a CPU."""

    def devices():
        if error:
            raise error
        return [SimpleNamespace(platform="cpu")]

    changes = {}
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    fake = SimpleNamespace(jax_platforms=platforms, update=changes.__setitem__)
    monkeypatch.setattr(jax, "config", fake)
    monkeypatch.setattr(jax, "devices", devices)
    with pytest.raises(UserError, match=re.escape(expected)):
        find_devices()
    assert changes == ({"jax_platforms": f"{platforms},cpu"} if platforms else {})


@pytest.mark.slow
@pytest.mark.parametrize(
    "variable", ["JAX_PLATFORMS=cuda", "JAX_PLATFORMS=banana", "JAX_PLATFORM_NAME=gpu"]
)
def test_a_process_without_its_device_exits_with_one_line(tmp_path, variable):
    name, value = variable.split("=")
    command = [sys.executable, "-m", "vitdeblur_jax", "photo.png"]
    environment = {**os.environ, name: value}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert re.fullmatch(f"error: JAX finds no device for {variable} [^\n]*\n", done.stderr)


def test_out_of_memory_names_the_option_to_lower(capsys):
    def fail(error):
        raise error

    lack = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore")
    assert exit_status(lambda: fail(lack), "--batch-size") == 2
    expected = "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes. more); lower --batch-size\n"
    assert capsys.readouterr().err == f"error: the device has too little memory ({expected}"
    assert exit_status(lambda: fail(MemoryError("Unable to allocate"))) == 2
    said = capsys.readouterr().err
    assert said == "error: this machine has too little memory (Unable to allocate)\n"
    with pytest.raises(jax.errors.JaxRuntimeError):
        exit_status(lambda: fail(jax.errors.JaxRuntimeError("INTERNAL: a bug")))


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
