"""The documentation is true: commands and Python are run, options and files exist, links hold.

A page's blocks run in their order, in a folder of its own where the names that they use exist. A
comment before a block says what is not usual about it; see CONTRIBUTING.md.
"""

import contextlib
import importlib.metadata
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import ml_collections
import pytest
from markdown_it import MarkdownIt
from PIL import Image

import vitdeblur_jax
from configs import evaluate, mixture
from tests import made_up_data
from tests.forked import run_program
from vitdeblur_jax import load_pretrained, save_pretrained
from vitdeblur_jax.cli.main import main
from vitdeblur_jax.training.defaults import default_config

ROOT = Path(__file__).parents[1]
PACKAGE = Path(vitdeblur_jax.__file__).parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

COMMANDS, PYTHON = "", "python"
INSTALL = re.compile(r"python -m pip install [^&\n]*(&& |\n|$)")  # the tests run where it is done
SLOW, NOT_RUN = re.compile(r"slow(?:; with (.+))?"), re.compile(r"not run: (.+)")
SAVED = re.compile(r"saved as (\S+)")  # a file for the blocks that follow
# What the blocks of Python may take for granted.
GIVEN = """\
import numpy as np
image = np.random.default_rng(0).integers(256, size=(50, 60, 3), dtype=np.uint8)
blurred = sharp = np.zeros((2, 106, 106, 3), np.uint8)
"""
# Options that belong to other programs than ours.
OTHERS = {
    *("--direct_num_workers", "--direct_running_mode", "--runner", "--flink_master"),  # Beam's
    *("--sdk_container_image", "--setup_file"),
    *(
        "--constraint",
        "--no-index",
        "--strict",
        "--images",
        "--durations",
        "--logdir",
    ),  # pip, MkDocs, a benchmark, pytest, TensorBoard
    *("--config", "--workdir"),  # read by cli/with_config.py
    *("--nodes", "--requeue", "--build-arg"),  # Slurm's, Docker's
    *("--topology", "--fsdp", "--search", "--pairs", "--sharp"),  # of benchmarks
    "--small",  # of benchmarks/accelerator.py
    "--xla_cpu_multi_thread_eigen",  # XLA's
    *("--implicit-dirs", "--cache-dir", "--file-cache-max-size-mb"),  # gcsfuse's
    *("--file-cache-cache-file-for-range-read", "--metadata-cache-ttl-secs"),
    *("--read-only", "--cache", "--metadata-ttl"),  # mount-s3's
}


class Block(NamedTuple):
    """A block of code: its language ("" if it is only indented), and what a comment says of it."""

    page: Path
    line: int
    language: str
    text: str
    mark: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def to_run(self) -> str:
        return INSTALL.sub("", self.text).rstrip()


def blocks_of(page: Path) -> Iterator[Block]:
    mark = ""
    for token in MarkdownIt().parse(page.read_text()):
        if token.type in ("fence", "code_block"):
            yield Block(page, token.map[0] + 1, token.info, token.content, mark)
        is_comment = token.type == "html_block" and token.content.startswith("<!--")
        mark = token.content.strip().removeprefix("<!-- ").removesuffix(" -->") * is_comment


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
RUN = [block for block in BLOCKS if block.to_run and not NOT_RUN.fullmatch(block.mark)]
LEFT_OUT = [block for block in BLOCKS if NOT_RUN.fullmatch(block.mark)]
FAST = [block for block in RUN if not block.mark or SAVED.fullmatch(block.mark)]


def pages_of(blocks: list[Block]) -> list[str]:
    return sorted({str(block.page.relative_to(ROOT)) for block in blocks})


def test_every_block_is_run_or_says_why_not():
    assert {block.language for block in BLOCKS} == {COMMANDS, PYTHON}
    marked = [block for block in RUN if block.mark]
    unclear = [b for b in marked if not (SLOW.fullmatch(b.mark) or SAVED.fullmatch(b.mark))]
    assert not [f"{block.place}: {block.mark}" for block in unclear]


@pytest.mark.parametrize("block", LEFT_OUT, ids=lambda block: block.place)
def test_left_out(block):
    pytest.skip(NOT_RUN.fullmatch(block.mark)[1])


@pytest.mark.parametrize("page", pages_of(FAST))
def test_the_quick_blocks_of_a_page_run(page, workplace):
    for block in FAST:
        if block.page == ROOT / page:
            run(block, workplace)


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_of([block for block in RUN if block.mark]))
def test_all_blocks_of_a_page_run(page, workplace):
    for block in RUN:
        if block.page == ROOT / page:
            run(block, workplace)


def run(block: Block, folder: Path) -> None:
    if saved := SAVED.fullmatch(block.mark):
        (folder / saved[1]).write_text(block.text)
        return
    if block.language == PYTHON:
        commands = [["-c", GIVEN + block.to_run]]
    else:
        commands = programs_of(f"{block.to_run} {SLOW.fullmatch(block.mark or 'slow')[1] or ''}")
    for command in commands:
        done = run_program(command, folder) if command[0] != "bash" else run_shell(command, folder)
        assert done.returncode == 0, f"{block.place}\n{block.text}\n{done.stderr[-3000:]}"


def programs_of(script: str) -> list[list[str]]:
    """Returns the arguments of Python for each command; or all as one command of Bash."""
    lines = [shlex.split(line, comments=True) for line in script.replace("\\\n", " ").splitlines()]
    lines = [line for line in lines if line]
    is_plain = not re.search(r"[|&;<>$`*?~]", script)
    if is_plain and all(line[0] in ("python", "vitdeblur") for line in lines):
        module = ["-m", "vitdeblur_jax"]
        return [[*(module if line[0] == "vitdeblur" else []), *line[1:]] for line in lines]
    return [["bash", "-euo", "pipefail", "-c", script]]


def run_shell(command: list[str], folder: Path) -> subprocess.CompletedProcess:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture
def workplace(tmp_path):
    """A folder that holds what the pages speak of, all of it small."""
    for name in ("configs", "evaluate.py", "train.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    save_pretrained(load_pretrained(), tmp_path / "vitdeblur.pth")
    defocused = tmp_path / "examples/images/defocused"
    defocused.mkdir(parents=True)
    for file in (tmp_path / "photo.jpg", defocused / "building.jpg"):
        Image.fromarray(made_up_data.random_image(0, (50, 60))).save(file)
    for i in range(2):
        made_up_data.write(tmp_path / f"images/photo{i}.png", i, (50, 60))
        made_up_data.write(tmp_path / f"SHARP_FOLDER/photo{i}.png", i, (50, 60))
        for sharp in ("IMAGES", "examples/images/sharp"):
            made_up_data.write(tmp_path / f"{sharp}/photo{i}.png", i, (120, 130))
        for split, size in (("train", (370, 380)), ("test", (50, 60))):
            for side in ("input", "ground_truth"):
                made_up_data.write(tmp_path / f"LFDOF/{split}_data/{side}/{i:03}.png", i, size)
    made_up_data.pairs(tmp_path / "ROOT", size=(110, 120))
    made_up_data.dpdd(tmp_path / "DPDD")
    for i, target in enumerate(sorted((tmp_path / "DPDD/test_c/target").iterdir())):
        for method in ("restormer", "run1"):
            made_up_data.write(tmp_path / f"results/{method}/{target.name}", i)
    return tmp_path


def test_options_exist():
    written = "".join(helps()) + " ".join(OTHERS)
    keys = {*keys_of(default_config("base")), *keys_of(evaluate.get_config())}
    keys |= {*keys_of(mixture.get_config())}
    for page in PAGES:
        for option in re.findall(r"(?<![\w-])--[a-z][\w.-]*", page.read_text()):
            option = option.rstrip(".")
            if option.startswith("--config."):
                assert option.removeprefix("--config.") in keys, f"{page}: {option}"
            else:
                assert re.search(rf"{option}(?![\w-])", written), f"{page}: {option}"


def helps() -> Iterator[str]:
    """Returns the help of each command."""
    data = ("check", "prepare", "synthesize")
    for command in (
        (),
        ("convert",),
        ("export",),
        ("networks",),
        ("score",),
        ("info",),
        ("web",),
        *(("data", verb) for verb in data),
    ):
        with contextlib.redirect_stdout(io.StringIO()) as written, pytest.raises(SystemExit):
            main([*command, "--help"])
        yield written.getvalue()


def keys_of(config: ml_collections.ConfigDict) -> Iterator[str]:
    for key, value in config.items():
        yield key
        if isinstance(value, ml_collections.ConfigDict):
            yield from (f"{key}.{inner}" for inner in keys_of(value))


def test_extras_exist():
    extras = set(importlib.metadata.metadata("vitdeblur_jax").get_all("Provides-Extra"))
    for page in PAGES:
        for names in re.findall(r'"\.\[(.+?)\]"', page.read_text()):
            assert set(names.split(",")) <= extras, page


def test_files_of_ours_exist():
    known = re.compile(r"`((?:\w+/)*\w+/\w+\.(?:py|csv|safetensors))`")
    for page in PAGES:
        for name in known.findall(page.read_text()):
            places = [folder / name for folder in (ROOT, PACKAGE, PACKAGE.parent)]
            assert any(place.exists() for place in places), f"{page}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_hold_on_disk(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(("https://", "#")):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name
        # The package's own files lie elsewhere when the tests run beside an installed wheel.
        elsewhere = PACKAGE.parent / name
        assert target.exists() or elsewhere.exists(), f"{page}: {link}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert anchor in map(anchor_of, headings), f"{page}: {link}"


def anchor_of(heading: str) -> str:
    """Returns what GitHub calls a heading in links."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_every_module_has_its_place_in_the_api():
    named = re.findall(r"^::: (\S+)$", "".join(p.read_text() for p in PAGES), re.MULTILINE)
    files = [path.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*.py")]
    modules = {".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in files}
    beside_an_export = {"vitdeblur_jax.inference.exported.restore"}
    assert sorted(named) == sorted(modules - beside_an_export)


@pytest.mark.slow
def test_the_site_is_built_and_asks_no_other_host(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    fetched = re.compile(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="?(https?:[^" >]*)')
    for page in tmp_path.rglob("*.html"):
        assert not fetched.findall(page.read_text()), page
