"""Checkpoints on the Hugging Face Hub, with a server on this machine in its place."""

import dataclasses
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoints.fake_hub import REPO, WEIGHTS, as_json, refusal
from tests.checkpoints.web_server import Answer, unused_url
from vitdeblur_jax import UserError, save_pretrained
from vitdeblur_jax.checkpoints.addresses import located
from vitdeblur_jax.checkpoints.hub_addresses import HubAddress, parse_hub_address

ROOT = Path(__file__).parents[2]


def stop(hub):
    """Makes the hub unreachable."""
    hub.changes.append(("", lambda answer: Answer(status=503)))


def refused(address: str) -> str:
    """Returns the message of an address that cannot be loaded."""
    with pytest.raises(UserError) as raised:
        located(address)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def whole_files(hub) -> list[str]:
    """Returns the names of the files in the cache that can be loaded."""
    return sorted(path.name for path in hub.cache.glob("models--*/snapshots/*/*"))


def test_the_only_checkpoint_is_loaded(hub, capsys):
    found = located(f"hf://{REPO}")
    commit = hub.branches["main"]
    assert Path(found.path).read_bytes() == WEIGHTS
    assert found.pinned == f"hf://{REPO}@{commit}/net.safetensors"
    assert f"checkpoint: {found.pinned}\n" in capsys.readouterr().err
    assert Path(found.path).is_relative_to(hub.cache)


def test_a_pinned_file_is_asked_for_once(hub):
    first = located(f"hf://{REPO}@{hub.branches['main']}/net.safetensors")
    assert first.pinned == f"hf://{REPO}@{hub.branches['main']}/net.safetensors"
    asked = len(hub.server.requests)
    assert located(first.pinned) == first
    assert len(hub.server.requests) == asked


def test_a_branch_follows_its_commits(hub):
    before = hub.branches["main"]
    located(f"hf://{REPO}")
    after = hub.add({"net.safetensors": WEIGHTS[::-1]})
    assert Path(located(f"hf://{REPO}").path).read_bytes() == WEIGHTS[::-1]
    assert after != before
    assert Path(located(f"hf://{REPO}@{before}").path).read_bytes() == WEIGHTS


@pytest.mark.parametrize("revision", ["v1.0", "refs/pr/1", "a%2Fb"])
def test_revisions(hub, revision):
    commit = hub.add({"deep/net.safetensors": b"other"}, branch=revision.replace("%2F", "/"))
    for file in ("", "/deep/net.safetensors"):
        found = located(f"hf://{REPO}@{revision}{file}")
        assert Path(found.path).read_bytes() == b"other"
        assert found.pinned == f"hf://{REPO}@{commit}/deep/net.safetensors"


@pytest.mark.parametrize("file", ["", "/net.safetensors"])
def test_without_the_hub_the_cache_is_used(hub, file, capsys):
    online = located(f"hf://{REPO}{file}")
    stop(hub)
    capsys.readouterr()
    assert located(f"hf://{REPO}{file}") == online
    assert "; the commit in the cache is used" in capsys.readouterr().err


def test_offline_mode_uses_the_cache(hub, monkeypatch):
    online = located(f"hf://{REPO}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked = len(hub.server.requests)
    assert located(f"hf://{REPO}") == online
    assert "offline mode is enabled" in refused(f"hf://{REPO}@{40 * '0'}/net.safetensors")
    assert len(hub.server.requests) == asked


@pytest.mark.parametrize("file", ["", "/net.safetensors"])
def test_without_hub_and_cache(hub, file):
    stop(hub)
    assert "the hub answers 503" in refused(f"hf://{REPO}{file}")
    assert whole_files(hub) == []


def test_no_server(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", unused_url())
    said = refused(f"hf://{REPO}")
    assert said.endswith("the hub cannot be reached ([Errno 111] Connection refused)")


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (["a.safetensors", "b.pth", "c.bin"], "a.safetensors"),
        (["a.txt", "deep/b.pth"], "deep/b.pth"),
        (["a.safetensors", "b.safetensors"], "add one to the address: /a.safetensors, /b."),
        (["a.pth", "b.npz"], "add one to the address: /a.pth, /b.npz"),
        (["a.txt"], "holds no checkpoint (.safetensors, .pth"),
        ([], "holds nothing"),
    ],
)
def test_which_file_is_loaded(hub, files, chosen):
    hub.add({name: name.encode() for name in files})
    if chosen in files:
        assert Path(located(f"hf://{REPO}").path).read_bytes() == chosen.encode()
    else:
        assert chosen in refused(f"hf://{REPO}")


def test_a_pickle_is_announced(hub, capsys):
    hub.add({"pytorch_model.bin": WEIGHTS})
    located(f"hf://{REPO}")
    assert "note: pytorch_model.bin is a pickle" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("hf://someone/else", "there is no such repository, or it is private; then log in"),
        (f"hf://{REPO}@v9", "the repository has no such revision"),
        (f"hf://{REPO}/nett.safetensors", "has no file 'nett.safetensors' (did you mean 'net."),
    ],
)
def test_what_the_hub_does_not_have(hub, address, expected):
    assert expected in refused(address)


def test_a_gated_repository(hub):
    hub.changes.append(("", lambda answer: refusal("GatedRepo")))
    assert "accept its terms on its page, then log in" in refused(f"hf://{REPO}")


@pytest.mark.parametrize(
    ("path", "change", "expected"),
    [
        ("/revision/", lambda a: as_json({}), "the hub does not answer"),
        ("/revision/", lambda a: as_json({"id": REPO}), "holds nothing"),
        ("/revision/", lambda a: Answer(b"<html>"), "the hub does not answer"),
        ("/revision/", lambda a: Answer(b"[1]"), "the hub does not answer"),
        ("HEAD", lambda a: Answer(a.body), "the file is not in the cache"),
        ("GET.*/resolve/", lambda a: Answer(status=500), "the hub answers 500 Internal"),
        (
            "GET.*/resolve/",
            lambda a: Answer(b"<html>", headers={"Content-Type": "text/html"}),
            "the hub does not answer as expected (Consistency check failed",
        ),
        (
            "GET.*/resolve/",
            lambda a: dataclasses.replace(a, body=a.body[:-1] + b"?"),
            f"the hub announced {hashlib.sha256(WEIGHTS).hexdigest()}); it was deleted",
        ),
        (
            "GET.*/resolve/",
            lambda a: dataclasses.replace(a, cuts=[1000, 0, 0, 0, 0, 0, 0]),
            "the hub cannot be reached (peer closed connection",
        ),
    ],
)
def test_hubs_that_break_or_lie(hub, path, change, expected):
    hub.changes.append((path, change))
    assert expected in refused(f"hf://{REPO}")
    assert whole_files(hub) == []
    hub.changes.clear()
    assert Path(located(f"hf://{REPO}").path).read_bytes() == WEIGHTS


def test_another_commit_is_refused(hub):
    old, new = hub.branches["main"], hub.add({"net.safetensors": b"other"})
    hub.commits[old] = hub.commits[new]
    other = {"X-Repo-Commit": new}
    hub.changes.append(
        ("/resolve/", lambda a: dataclasses.replace(a, headers={**a.headers, **other}))
    )
    expected = f"the hub sends the commit {new} in place of this one"
    assert refused(f"hf://{REPO}@{old}").endswith(expected)


def test_a_small_file_is_checked_by_its_git_hash(hub):
    hub.add({"net.npz": b"some arrays"})
    hub.changes.append(("GET.*/resolve/", lambda a: dataclasses.replace(a, body=b"some arrayz")))
    assert "damaged on the way" in refused(f"hf://{REPO}")
    hub.changes.clear()
    assert Path(located(f"hf://{REPO}").path).read_bytes() == b"some arrays"


def test_a_connection_that_breaks_is_resumed(hub, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 50_000)
    cuts = [100_000, 150_000]
    hub.changes.append(("GET.*/resolve/", lambda a: dataclasses.replace(a, cuts=cuts)))
    assert Path(located(f"hf://{REPO}").path).read_bytes() == WEIGHTS
    ranges = [r.headers.get("range") for r in hub.server.requests if "/resolve/" in r.path]
    assert ranges[-2:] == ["bytes=100000-", "bytes=250000-"]
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_slow_hub(hub, monkeypatch):
    monkeypatch.setattr("vitdeblur_jax.checkpoints.hub_files._TIMEOUT", 0.1)
    hub.changes.append(("/revision/", lambda a: dataclasses.replace(a, delay=3)))
    assert "the hub cannot be reached (timed out)" in refused(f"hf://{REPO}")


def test_a_damaged_file_in_the_cache_is_deleted(hub):
    path = Path(located(f"hf://{REPO}").path)
    path.write_bytes(WEIGHTS[:-1])
    assert "it was deleted" in refused(f"hf://{REPO}")
    assert path.exists() is False
    assert Path(located(f"hf://{REPO}").path).read_bytes() == WEIGHTS


def test_without_the_package_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert refused(f"hf://{REPO}") == (
        f"hf://{REPO}@main: hf:// needs huggingface_hub: pip install 'vitdeblur_jax[hub]'"
    )


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("hf://a/b", HubAddress("a/b", "main", "")),
        ("hf://a/b@v1", HubAddress("a/b", "v1", "")),
        ("hf://a/b/c.pth", HubAddress("a/b", "main", "c.pth")),
        ("hf://a.x/b-1@refs/pr/2/d/c.pth", HubAddress("a.x/b-1", "refs/pr/2", "d/c.pth")),
        ("hf://a/b@x%2Fy/c.pth", HubAddress("a/b", "x/y", "c.pth")),
    ],
)
def test_the_parts_of_an_address(address, expected):
    assert parse_hub_address(address) == expected
    assert parse_hub_address(str(expected)) == expected


@pytest.mark.parametrize(
    "address",
    [
        *("hf://", "hf://a", "hf://a/", "hf:///b", "hf://a/b@", "hf://a/b/", "hf://a/b//c"),
        *("hf://a/b/../c", "hf://a/b c", "hf://datasets/a/b", "hf://a/b?x=1", "hf://é/b"),
    ],
)
def test_malformed_addresses(address):
    with pytest.raises(UserError, match=re.escape(address)):
        parse_hub_address(address)


@pytest.mark.slow
def test_the_command_line_takes_the_hub_of_the_environment(hub, small, tmp_path):
    save_pretrained(small, tmp_path / "a.safetensors")
    hub.add({"a.safetensors": (tmp_path / "a.safetensors").read_bytes()})
    environment = {
        **os.environ,
        **{"HF_ENDPOINT": hub.server.url, "HF_HOME": str(tmp_path / "home")},
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "vitdeblur_jax", "convert", f"hf://{REPO}", "b.safetensors"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"checkpoint: hf://{REPO}@{hub.branches['main']}/a.safetensors" in done.stderr
    assert (tmp_path / "b.safetensors").exists()
