"""The examples run with the commands in their docstrings and reproduce the stated results."""

import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.forked import run_program
from vitdeblur_jax import load_pretrained
from vitdeblur_jax.models.layers.attention import dot_product_attention

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

pytest.importorskip("matplotlib")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_tells_its_command(path):
    assert len(path.read_text().splitlines()) <= 100
    assert f"python examples/{path.name}" in command_of(path)


def command_of(path: Path) -> str:
    return re.search(r"^    (python .+)$", path.read_text(), re.MULTILINE)[1]


@pytest.fixture
def run(tmp_path):
    """Runs an example with its command in an empty folder and returns its output."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")

    def run(name: str) -> str:
        _, *arguments = command_of(ROOT / "examples" / f"{name}.py").split()
        # They compute for a minute: compiling them well takes less than they lose without.
        optimized = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
        done = run_program(arguments, tmp_path, timeout=900, **optimized)
        assert done.returncode == 0, done.stderr[-3000:]
        for picture in (argument for argument in arguments if argument.endswith(".png")):
            with Image.open(tmp_path / picture) as image:
                assert image.width > 300
        print(done.stdout)
        return done.stdout

    return run


def number(pattern: str, text: str) -> float:
    """Returns the number at the place of N in the pattern."""
    return float(re.search(pattern.replace("N", r"([+-]?[\d.]+(?:e[+-]?\d+)?)"), text)[1])


@pytest.mark.slow
def test_teaching_pairs(run):
    printed = run("teaching_pairs")
    assert number("expected against real fall: rank correlation N", printed) > 0.98
    causes = re.findall(r"against teaching: rank correlation (\S+)", printed)
    radius, removed, own_loss = map(float, causes)
    assert abs(radius) < 0.3
    assert max(removed, own_loss) < -0.4
    assert 5 < number("N% of the pairs teach the wrong thing", printed) < 40


@pytest.mark.slow
def test_ensemble(run):
    printed = run("ensemble")
    assert 0 < number("spread against error: rank correlation N", printed) < 0.85
    assert number("contrast against error: rank correlation N", printed) > 0.5
    assert number("error over spread: N to", printed) > 1.5
    assert number("to N by groups of spread", printed) > 10


@pytest.mark.slow
def test_defocus_radius(run):
    lines = re.findall(r"true (\S+) spectrum (\S+) network (\S+)", run("defocus_radius"))
    true, spectrum, network = np.array(lines, float).T
    assert len(true) == 12
    np.testing.assert_allclose(spectrum, true, rtol=0.05)
    circuit_and_mural = [4 * i + j for i in (1, 2) for j in (1, 2, 3)]  # from 4 pixels on
    np.testing.assert_allclose(network[circuit_and_mural], true[circuit_and_mural], rtol=0.1)


@pytest.mark.slow
def test_contextual_tokens(run):
    printed = run("contextual_tokens")
    assert number("N% of unseen pairs", printed) > 85
    assert number("N% of unseen crops", printed) > 75


@pytest.mark.slow
def test_token_attention(run, monkeypatch, tmp_path):
    printed = run("token_attention")
    first, *others, last = map(int, re.findall(r"half of its attention goes to (\d+) of", printed))
    assert min(first, last) > 50
    assert len(others) == 7
    assert max(others) < 10
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "again.png")])
    found = runpy.run_path(str(ROOT / "examples/token_attention.py"))
    (captured,) = found["kept"]["decoder"]["blocks_2"]["attention"]["qkv"]["__call__"]
    heads = found["model"].decoder.num_heads
    query, key, value = np.moveaxis(captured.reshape(1, captured.shape[1], 3, heads, -1), 2, 0)
    mixed = dot_product_attention(query, key, value)[0]
    weights = found["attention"](captured[0], heads)
    np.testing.assert_allclose(np.einsum("hts,shw->thw", weights, value[0]), mixed, atol=1e-4)


@pytest.mark.slow
def test_receptive_field(run):
    printed = run("receptive_field")
    assert 50 < number("N% within 0 pixels", printed) < 95
    model = load_pretrained().model
    tokenizer = model.tokenizer
    blind = (model.tiling.size - tokenizer.patch_size) % tokenizer.patch_stride
    assert f"\n{blind} rows and {blind} columns are not seen" in printed


@pytest.mark.slow
def test_convolutional_decoder(run):
    printed = run("convolutional_decoder")
    before = number("input: N dB", printed)
    usual = number(r"\ntransformer: N dB", printed)
    convolutional = number("convolutional: N dB", printed)
    assert min(usual, convolutional) > before + 0.2
    assert max(usual, convolutional) < before + 1.2


@pytest.mark.slow
def test_fourier_loss(run, tmp_path):
    run("fourier_loss")
    lines = map(json.loads, (tmp_path / "RUN/log.jsonl").read_text().splitlines())
    *_, last = (line for line in lines if line["kind"] == "validation")
    assert last["psnr_gain"] > 0.1


@pytest.mark.slow
def test_fine_tune(run):
    printed = run("fine_tune")
    assert number("N% as many values", printed) <= 5
    gains = re.findall(r"(\w+) lens: .* before (\S+), after (\S+)", printed)
    gain = {which: float(after) - float(before) for which, before, after in gains}
    assert gain["this"] > 0.05
    assert gain["any"] > -0.05


@pytest.mark.slow
def test_learning_rates(run):
    printed = run("learning_rates")
    losses = [float(loss) for loss in re.findall(r"learning rate \S+: loss (\S+)", printed)]
    assert 0 < np.argmin(losses) < 4
    assert max(losses[:4]) < 1.04 * min(losses)
    assert min(losses[5:]) > 1.2 * min(losses)
    assert number("alone: within N of the same", printed) < 1e-6


@pytest.mark.slow
def test_exported_model(run):
    assert number("differs by N at most", run("exported_model")) == 0


@pytest.mark.slow
def test_own_network(run, tmp_path):
    assert "restored (960, 1280, 3) with <Pretrained OwnNetwork" in run("own_network")
    steps = [int(path.name) for path in (tmp_path / "WORKDIR/checkpoints").iterdir()]
    assert max(steps) == 40
    lines = (ROOT / "examples/own_network.py").read_text().splitlines()
    assert len(lines) < 40
