"""`vitdeblur info` and `--version`."""

import importlib.metadata
import os
import platform
import subprocess
import sys

import jax
import pytest

from vitdeblur_jax.cli.main import main


def reported(capsys) -> dict[str, str]:
    assert main(["info"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return dict(line.split(": ", 1) for line in captured.out.splitlines() if ": " in line)


def test_versions_devices_formats_and_caches(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    folder = tmp_path / ".cache/vitdeblur_jax/metrics"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(bytes(2**20))
    said = reported(capsys)
    for package in ("vitdeblur_jax", "jax", "flax", "imagecodecs"):
        assert said[package] == importlib.metadata.version(package)
    assert said["python"].startswith(platform.python_version())
    count = jax.device_count()
    assert said["devices"] == f"{count} x {jax.devices()[0].device_kind}"
    assert said["image formats"].startswith("PNG, JPEG, TIFF, WEBP, BMP")
    where = "1 files, 1.0 MiB in ~/.cache/vitdeblur_jax/metrics"
    assert said["weights of metrics"] == where
    assert said["downloaded checkpoints"].startswith("0 files, 0.0 MiB in ~/.cache/")


def test_secrets_and_the_home_folder_are_not_printed(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("API_TOKEN", "a-secret")
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to={tmp_path}/dump")
    assert main(["info"]) == 0
    said = capsys.readouterr().out
    assert "a-secret" not in said
    assert "API_TOKEN" not in said
    assert str(tmp_path) not in said
    assert "XLA_FLAGS=--xla_dump_to=~/dump" in said


def test_a_missing_package_is_named(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["info"]) == 0
    said = capsys.readouterr().out
    assert "not available: HEIC files need pillow-heif: pip install 'vitdeblur_jax[heic]'" in said


def test_without_a_device_the_rest_is_printed(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "vitdeblur_jax", "info"],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cuda", "HOME": str(tmp_path)},
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "devices: none (JAX finds no device for JAX_PLATFORMS=cuda" in done.stdout
    assert "image formats: PNG" in done.stdout


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    expected = f"vitdeblur_jax {importlib.metadata.version('vitdeblur_jax')}\n"
    assert capsys.readouterr().out == expected
