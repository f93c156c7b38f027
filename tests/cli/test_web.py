"""`vitdeblur web`: its start, its end, and what it says of mistakes."""

import os
import re
import signal
import socket
import urllib.request
from pathlib import Path

import pytest

from tests.forked import start_program
from vitdeblur_jax.cli.main import main


def refused(capsys) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_without_the_extra_one_line_names_it(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["web"]) == 2
    assert "pip install 'vitdeblur_jax[web]'" in refused(capsys)


def test_a_port_in_use(capsys):
    pytest.importorskip("uvicorn")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["web", "--port", str(port)]) == 2
    assert f"cannot listen on 127.0.0.1, port {port}" in refused(capsys)


@pytest.mark.parametrize("host", ["..", f"{'a' * 64}.example"])
def test_no_host_name(capsys, host):
    pytest.importorskip("uvicorn")
    assert main(["web", "--host", host]) == 2
    assert f"cannot listen on {host}, port 7870 (not a host name)" in refused(capsys)


def test_a_wrong_checkpoint_ends_the_command(capsys, tmp_path):
    pytest.importorskip("uvicorn")
    missing = str(tmp_path / "missing.safetensors")
    assert main(["web", "--port", "0", "--checkpoint", missing]) == 2
    assert missing in refused(capsys)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_server_and_deletes_everything(tmp_path, number, status):
    pytest.importorskip("uvicorn")
    from tests.web.served import wait_until

    out, temporary = tmp_path / "out", tmp_path / "tmp"
    temporary.mkdir()
    command = ["-m", "vitdeblur_jax", "web", "--port", "0"]
    server = start_program(command, tmp_path, out, tmp_path / "err", TMPDIR=str(temporary))
    try:
        wait_until(lambda: out.exists() and out.read_text().endswith("\n"))
        address = re.search(r"http://127\.0\.0\.1:\d+/\S+/", out.read_text())[0]
        origin = address[: address.index("/", 7)]
        request = urllib.request.Request(
            f"{address}jobs?name=a.png", b"not an image", {"Origin": origin}
        )
        assert urllib.request.urlopen(request, timeout=30).status == 201
        (folder,) = temporary.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        assert [path.name for path in Path(folder).glob("*/*")] == ["upload"]
        os.kill(server.pid, number)
        server.join(30)
        assert server.exitcode == status
        assert list(temporary.iterdir()) == []
    finally:
        server.kill()
        server.join()
