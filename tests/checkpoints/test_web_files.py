"""Checkpoints by web address: downloads, resumes, the cache, and servers that break or lie."""

import hashlib
import os
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.checkpoints.web_server import Answer, serving, unused_url
from vitdeblur_jax import UserError, load_pretrained, save_pretrained
from vitdeblur_jax.checkpoints import web_files
from vitdeblur_jax.checkpoints.addresses import located
from vitdeblur_jax.checkpoints.recognition import read_entries
from vitdeblur_jax.checkpoints.web_files import parse_web_address

BODY = np.random.default_rng(0).bytes(3_000_000)
DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setattr(web_files, "_TIMEOUT", 5)
    return tmp_path / "caches/vitdeblur_jax/checkpoints" / DIGEST


@pytest.fixture
def server():
    """A server whose every path is the file in `server.file`."""
    with serving(lambda request: server.file) as server:
        server.file = Answer(BODY)
        yield server


def fetched(server, digest: str = DIGEST, name: str = "net.safetensors") -> Path:
    return located(f"{server.url}/files/{name}#sha256={digest}").path


def names(cache: Path) -> list[str]:
    return sorted(set(os.listdir(cache)) - {".lock"}) if cache.exists() else []


def refused(server, **how) -> str:
    """Returns the message of a download that fails."""
    with pytest.raises(UserError) as raised:
        fetched(server, **how)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_file_is_downloaded_once(server, cache, capsys):
    path = fetched(server)
    assert path == cache / "net.safetensors"
    assert path.read_bytes() == BODY
    assert fetched(server, digest=DIGEST.upper()) == path
    assert len(server.requests) == 1
    assert server.requests[0].headers["accept-encoding"] == "identity"
    line = f"checkpoint: {server.url}/files/net.safetensors#sha256={DIGEST}\n"
    assert capsys.readouterr().err == 2 * line
    assert names(cache) == ["net.safetensors"]


def test_a_checkpoint_is_loaded_from_its_address(small, tmp_path, server):
    save_pretrained(small, tmp_path / "a.safetensors")
    server.file = Answer((tmp_path / "a.safetensors").read_bytes())
    digest = hashlib.sha256(server.file.body).hexdigest()
    address = f"{server.url}/a.safetensors?token=secret#sha256={digest}"
    loaded = load_pretrained(address)
    assert loaded.source == address.replace("?token=secret", "")
    assert server.requests[0].path == "/a.safetensors?token=secret"
    assert loaded.config == small.config
    local = load_pretrained(tmp_path / "a.safetensors").variables
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, local)


def test_weights_of_a_part_of_a_network_are_read_from_an_address(tmp_path, server):
    save_file({"norm.bias": np.arange(3.0, dtype=np.float32)}, tmp_path / "a.safetensors")
    server.file = Answer((tmp_path / "a.safetensors").read_bytes())
    digest = hashlib.sha256(server.file.body).hexdigest()
    read = read_entries(f"{server.url}/a.safetensors#sha256={digest}", {"norm.bias": (3,)})
    assert read["norm.bias"].tolist() == [0, 1, 2]


def test_progress_is_shown(server, monkeypatch, capsys):
    monkeypatch.setattr("vitdeblur_jax.utils.progress._SECONDS_BETWEEN_LINES", -1)
    monkeypatch.setattr(web_files, "_BLOCK", 1_000_000)
    fetched(server)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in lines[:3]] == [f"{i} of 3 MB" for i in (1, 2, 3)]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_is_cut_off_goes_on(server, cache, ranges):
    server.file = Answer(BODY, cuts=[1_000_000, 1_500_000], ranges=ranges)
    assert fetched(server).read_bytes() == BODY
    asked = [request.headers.get("range") for request in server.requests]
    assert asked[:2] == [None, "bytes=1000000-"]
    assert names(cache) == ["net.safetensors"]


def test_a_later_run_resumes(server, cache):
    server.file = Answer(BODY, cuts=[2_000_000, 0])
    said = refused(server)
    assert "cannot be downloaded (the connection ended after 2000000 of 3000000 bytes)" in said
    assert said.endswith("2.0 MB are kept, run this again to resume")
    assert names(cache) == ["net.safetensors.part"]
    assert fetched(server).read_bytes() == BODY
    assert server.requests[-1].headers["range"] == "bytes=2000000-"
    assert names(cache) == ["net.safetensors"]


def test_a_complete_part_needs_no_more_bytes(server, cache):
    """The process was killed after the last byte."""
    cache.mkdir(parents=True)
    (cache / "net.safetensors.part").write_bytes(BODY)
    assert fetched(server).read_bytes() == BODY
    assert not server.requests


@pytest.mark.parametrize("length", [1_000_000, 3_000_000, 4_000_000])
def test_a_part_of_another_file_is_dropped(server, cache, length):
    cache.mkdir(parents=True)
    (cache / "net.safetensors.part").write_bytes(bytes(length))
    assert fetched(server).read_bytes() == BODY


def test_another_file_is_refused(server, cache):
    server.file = Answer(b"other" * 1000)
    found = hashlib.sha256(server.file.body).hexdigest()
    assert refused(server).endswith(
        f"the server sends another file: its SHA-256 is {found}, not {DIGEST}"
    )
    assert names(cache) == []


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(b"gone", status=404), "the server answers 404 Not Found"),
        (Answer(b"", status=403), "the server answers 403 Forbidden"),
        (Answer(b"", status=503), "the server answers 503 Service Unavailable"),
        (
            Answer(b"<html>", headers={"Content-Type": "text/html; charset=utf-8"}),
            "this is a web page; give the address of the file itself",
        ),
        (Answer(BODY, headers={"Content-Length": "2000000"}), "the server sends another file"),
        (Answer(BODY, headers={"Content-Length": str(10**18)}), "the download needs 10000"),
        (
            Answer(BODY, cuts=[0]),
            "cannot be downloaded (the connection ended after 0 of 3000000 bytes)",
        ),
        (Answer(BODY, status=302, headers={"Location": "http://10.0.0.1/x"}), "is not safe"),
        (Answer(BODY, status=302, headers={"Location": "file:///etc/passwd"}), "answers 302"),
        (Answer(BODY, status=302, headers={"Location": "/again"}), "infinite loop"),
        (Answer(status=302, headers={"Location": "http://[::1"}), "(Invalid IPv6 URL)"),
        (Answer(status=308, headers={"Location": "https://a:b/"}), "cannot be downloaded (nonnum"),
        (
            Answer(b"zz\r\n", headers={"Content-Length": None, "Transfer-Encoding": "chunked"}),
            "cannot be downloaded (IncompleteRead",
        ),
    ],
)
def test_servers_that_break_or_lie(server, cache, answer, expected):
    server.file = answer
    assert expected in refused(server)
    assert "net.safetensors" not in names(cache)


def test_a_range_of_other_bytes_is_not_joined(server, cache):
    server.file = Answer(BODY, cuts=[1_000_000], headers={"Content-Range": "bytes 7-99/3000000"})
    assert fetched(server).read_bytes() == BODY


def test_a_server_that_stops_sending(server, cache, monkeypatch):
    monkeypatch.setattr(web_files, "_TIMEOUT", 0.1)
    server.file = Answer(BODY, delay=5)
    assert "timed out" in refused(server)
    assert "net.safetensors" not in names(cache)


def test_without_a_server():
    with pytest.raises(UserError, match=r"cannot be downloaded \(Connection refused\)$"):
        located(f"{unused_url()}/net.safetensors#sha256={DIGEST}")


def test_a_host_that_cannot_be():
    with pytest.raises(UserError, match="cannot be downloaded"):
        located(f"https://{'a' * 70}.example/net.safetensors#sha256={DIGEST}")


def test_a_redirect_on_this_machine_is_followed(server, cache):
    with serving(
        lambda request: Answer(status=302, headers={"Location": f"{server.url}/moved"})
    ) as first:
        assert fetched(first).read_bytes() == BODY
    assert names(cache) == ["net.safetensors"]


def test_a_damaged_file_in_the_cache_is_downloaded_again(server, cache, capsys):
    path = fetched(server)
    path.write_bytes(BODY[:-1])
    assert fetched(server).read_bytes() == BODY
    assert "is damaged and is downloaded again" in capsys.readouterr().err
    assert len(server.requests) == 2


def test_two_downloads_of_one_file_share_it(server, cache):
    server.file = Answer(BODY, delay=0.1)
    threads = [threading.Thread(target=fetched, args=(server,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (cache / "net.safetensors").read_bytes() == BODY
    assert len(server.requests) == 1


def test_a_cache_that_cannot_be_written(server, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "cannot be kept (Not a directory)" in refused(server)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("net.pth", "note: net.pth is a pickle; it is read as data, and no code in it is executed"),
        ("net.npz", "note: net.npz may hold a pickle; it is read as data"),
        ("net", "note: net may hold a pickle; it is read as data"),
        ("net.hdf5", None),
    ],
)
def test_a_pickle_is_announced(server, capsys, name, expected):
    fetched(server, name=name)
    notes = capsys.readouterr().err.splitlines()[1:]
    assert notes == [] if expected is None else notes[0].startswith(expected)


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("%2e%2e%2fevil.pth", "_evil.pth"),
        ("", "checkpoint"),
        ("..", "checkpoint"),
        ("lock", "lock"),
    ],
)
def test_names_stay_in_the_folder(server, cache, capsys, name, stored):
    assert fetched(server, name=name).parent == cache
    assert names(cache) == [stored]
    assert "damaged" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (
            "https://example.org/net.pth",
            "https://example.org/net.pth: add the file's SHA-256 to the address, #sha256=DIGEST; "
            "the publisher states it, or curl -sSL https://example.org/net.pth | sha256sum prints "
            "it",
        ),
        (f"https://example.org/net.pth#sha256={DIGEST[1:]}", "add the file's SHA-256"),
        (f"https://example.org/a?key=secret#md5={DIGEST}", "curl -sSL ADDRESS | sha256sum"),
        (f"http://example.org/net.pth#sha256={DIGEST}", "only https:// is safe"),
        (f"http://10.0.0.1/net.pth#sha256={DIGEST}", "only https:// is safe"),
        (f"https://me:secret@example.org/a#sha256={DIGEST}", "user name or password"),
        (f"https:///net.pth#sha256={DIGEST}", "not an address"),
        (f"https://a:99999/net.pth#sha256={DIGEST}", "not an address"),
        (f"https://[::1/net.pth#sha256={DIGEST}", "not an address"),
        (f"https://[::1/net.pth?key=secret#sha256={DIGEST}", "not an address"),
        (f"https:/example.org/net.pth?key=secret#sha256={DIGEST}", "two slashes"),
    ],
)
def test_malformed_addresses(address, expected):
    with pytest.raises(UserError) as raised:
        located(address)
    assert expected in str(raised.value)
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("host", ["localhost:80", "127.0.0.1", "127.1.2.3:8", "[::1]:80"])
def test_this_machine_needs_no_encryption(host):
    assert parse_web_address(f"http://{host}/a#sha256={DIGEST}").sha256 == DIGEST


@pytest.mark.parametrize("path", ["net.pth", "https", "hf", Path("folder/net.pth")])
def test_paths_are_no_addresses(path):
    assert located(path).path == path
