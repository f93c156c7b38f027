"""Pushing checkpoints to the Hugging Face Hub, with a server on this machine in its place."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml

from tests.checkpoints.fake_hub import REPO
from tests.checkpoints.web_server import Answer
from vitdeblur_jax import Pretrained, UserError, load_pretrained, save_pretrained
from vitdeblur_jax.checkpoints.hub_push import push
from vitdeblur_jax.cli.main import main

# Of huggingface_hub, where it uploads without Xet.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
PUSHED = {"model.safetensors", "config.json", "README.md"}


@pytest.fixture
def checkpoint(small, tmp_path) -> str:
    save_pretrained(small, tmp_path / "a.safetensors")
    return str(tmp_path / "a.safetensors")


@pytest.fixture
def run(small, tmp_path) -> str:
    """A training run with one validated checkpoint."""
    folder = tmp_path / "a-secret-place"
    (folder / "checkpoints").mkdir(parents=True)
    save_pretrained(small, folder / "checkpoints/300")
    config = {"data": {"layout": "dpdd", "root": "/a-secret-place"}, "validation": {"split": "val"}}
    (folder / "config.json").write_text(json.dumps(config))
    records = [
        {"kind": "validation", "step": 200, "psnr": 1.0},
        {"kind": "train", "step": 300, "loss": 0.1, "psnr": 2.0},
        {
            **{"kind": "validation", "step": 300, "psnr_gain": 1.25, "psnr": 25.51234567},
            **{"input_psnr": 24.26234567, "ssim": 0.8, "input_ssim": 0.75, "mae": None},
            "lfdof/psnr": 27.0,
        },
    ]
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in records))
    return str(folder)


def absent(hub):
    """Makes the hub's repository one that does not exist."""
    hub.commits, hub.branches = {}, {}


def assert_close(one: Pretrained, other: Pretrained, tolerance: float):
    for a, b in zip(*map(jax.tree.leaves, (one.variables, other.variables)), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def refused(*arguments, **options) -> str:
    with pytest.raises(UserError) as raised:
        push(*arguments, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_new_repository_is_private(hub, checkpoint, small, capsys):
    absent(hub)
    address, unused = push(checkpoint, f"hf://{REPO}", "apache-2.0")
    assert (hub.created["name"], hub.created["organization"]) == ("nets", "someone")
    assert hub.created["visibility"] == "private"
    assert "created: someone/nets, a private repository" in capsys.readouterr().err
    commit = hub.branches["main"]
    assert address == f"hf://{REPO}@{commit}/model.safetensors"
    files = hub.commits[commit]
    assert set(files) == PUSHED
    assert json.loads(files["config.json"]) == json.loads(json.dumps(small.config.to_dict()))
    assert unused != ()
    loaded = load_pretrained(f"hf://{REPO}")
    assert loaded.source == address
    assert_close(loaded, load_pretrained(checkpoint), 1e-6)  # the first layer is folded again


def test_the_card_of_a_run(hub, run):
    absent(hub)
    push(run, f"hf://{REPO}", "cc-by-nc-4.0")
    card = hub.commits[hub.branches["main"]]["README.md"].decode()
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["license"] == "cc-by-nc-4.0"
    assert head["library_name"] == "vitdeblur_jax"
    assert head["pipeline_tag"] == "image-to-image"
    assert "deblurring" in head["tags"]
    (index,) = head["model-index"]
    assert index["name"] == "nets"
    figures = {
        (result["dataset"]["name"], metric["type"]): metric["value"]
        for result in index["results"]
        for metric in result["metrics"]
    }
    assert figures == {("dpdd", "psnr"): 25.5123, ("dpdd", "ssim"): 0.8, ("lfdof", "psnr"): 27.0}
    assert "| dpdd, val | PSNR (dB) | 24.2623 | 25.5123 |" in card
    assert "| lfdof, val | PSNR (dB) |  | 27.0000 |" in card
    assert "Validation after 300 steps" in card
    assert f"vitdeblur IMAGE --checkpoint hf://{REPO}/model.safetensors\n" in card
    assert "a-secret-place" not in card


def test_the_card_of_a_file_has_no_results(hub, checkpoint):
    absent(hub)
    push(checkpoint, f"hf://{REPO}", "mit")
    card = hub.commits[hub.branches["main"]]["README.md"].decode()
    assert "model-index" not in yaml.safe_load(card.split("---\n")[1])
    assert "## Results" not in card


def test_existing_files_are_replaced_by_force_alone(hub, checkpoint):
    hub.add({"model.safetensors": b"precious", "README.md": b"written by hand", "more": b"kept"})
    asked = len(hub.paths("POST"))
    said = refused(checkpoint, f"hf://{REPO}", "mit")
    assert said.endswith(
        "the repository has model.safetensors, README.md; --force replaces them, and its history "
        "keeps the old ones"
    )
    assert len(hub.paths("POST")) == asked
    push(checkpoint, f"hf://{REPO}", "mit", overwrite=True)
    files = hub.commits[hub.branches["main"]]
    assert set(files) == {*PUSHED, "more"}
    assert files["model.safetensors"] != b"precious"


def test_branches_names_and_half_precision(hub, checkpoint):
    hub.add({}, branch="trial")
    address, _ = push(checkpoint, f"hf://{REPO}@trial/deep/net.safetensors", "mit", half=True)
    commit = hub.branches["trial"]
    assert address == f"hf://{REPO}@{commit}/deep/net.safetensors"
    card = hub.commits[commit]["README.md"].decode()
    assert f'vd.load_pretrained("hf://{REPO}@trial/deep/net.safetensors")' in card
    size = len(hub.commits[commit]["deep/net.safetensors"])
    assert size < 0.6 * Path(checkpoint).stat().st_size
    assert_close(load_pretrained(address), load_pretrained(checkpoint), 1e-3)


@pytest.mark.parametrize(
    ("destination", "license_name", "expected"),
    [
        (f"hf://{REPO}", None, "--license is missing"),
        (f"hf://{REPO}", "Apache 2.0", "the hub names licences in small letters"),
        (f"hf://{REPO}/net.pth", "mit", "a pushed checkpoint ends in .safetensors"),
        ("https://example.org/net.safetensors", "mit", "pushed to hf://OWNER/NAME only"),
        ("hf://someone", "mit", "an address on the hub is hf://OWNER/NAME"),
        (f"hf://{REPO}@v9", "mit", "the repository has no such revision"),
        ("hf://someone/else@trial", "mit", "there is no such repository"),
    ],
)
def test_wrong_destinations(hub, checkpoint, destination, license_name, expected):
    assert expected in refused(checkpoint, destination, license_name)
    assert hub.paths("POST") == []


@pytest.mark.parametrize(
    ("path", "status", "expected"),
    [
        (
            "POST.*/commit/",
            412,
            "the hub answers 412 Precondition Failed (A commit",
        ),
        ("POST.*/commit/", 500, "cannot be pushed: the hub answers 500"),
        ("PUT.*/upload/", 400, "cannot be pushed: the hub answers 400 Bad Request"),
        ("POST.*/preupload/", 401, "cannot be pushed: the hub answers 401 Unauthorized; log in"),
        ("POST.*/create", 403, "cannot be pushed: the hub answers 403 Forbidden; log in"),
        ("GET", 503, "the hub answers 503 Service Unavailable"),
    ],
)
def test_a_hub_that_refuses_keeps_what_it_had(hub, checkpoint, path, status, expected):
    if "create" in path:
        absent(hub)
    else:
        hub.add({"other.pth": b"other"})
    before = dict(hub.branches)
    body = b'{"error": "A commit has happened since"}' if status == 412 else b""
    hub.changes.append((path, lambda answer: Answer(body, status)))
    assert expected in refused(checkpoint, f"hf://{REPO}", "mit")
    if "commit" not in path:  # otherwise the hub has taken it and lies
        assert hub.branches == before


def test_a_checkpoint_that_cannot_be_loaded_creates_nothing(hub, tmp_path):
    absent(hub)
    assert "there is no checkpoint" in refused(tmp_path / "none.pth", f"hf://{REPO}", "mit")
    assert hub.paths("POST") == []


def test_the_command_pushes(hub, checkpoint, capsys):
    absent(hub)
    assert main(["convert", checkpoint, f"hf://{REPO}", "--license", "mit"]) == 0
    commit = hub.branches["main"]
    said = capsys.readouterr().err
    assert f"\nwritten: hf://{REPO}@{commit}/model.safetensors\nkept: " in said
    assert main(["convert", checkpoint, f"hf://{REPO}"]) == 2
    assert re.fullmatch("error: .*--license is missing.*\n", capsys.readouterr().err)
    assert main(["convert", checkpoint, "b.safetensors", "--license", "mit"]) == 2
    assert capsys.readouterr().err == (
        "error: --license is for a checkpoint that is pushed to hf://OWNER/NAME\n"
    )
