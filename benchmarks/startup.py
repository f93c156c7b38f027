"""Seconds of `vitdeblur small.jpg -o out.png` by phase, of `vitdeblur --help` and of the imports.

    python -m benchmarks.startup [--runs 7]

Each run is a new process; the programs take turns. Prints medians of the seconds, and of the CPU
seconds of all cores together, which depend less on other work on the machine. The image has 550 x
370 pixels, and the model is the one that comes with the package. The cache of compiled programs is
empty, filled by an earlier run, or turned off.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from benchmarks.startup_phases import COMPILE, COMPUTE, FILES, IMPORT, LOAD, TRACE
from vitdeblur_jax.utils.table import format_number, format_table

ROOT = Path(__file__).parents[1]
IMAGE = ROOT / "examples" / "images" / "defocused" / "building.jpg"
SIZE = (550, 370)  # width, height
PROGRAMS = {
    "python": ["-c", "pass"],
    "vitdeblur --help": ["-m", "vitdeblur_jax", "--help"],
    "import jax": ["-c", "import jax"],
    "import jax, vitdeblur_jax": ["-c", "import jax, vitdeblur_jax"],
    "the same and its functions": [
        "-c",
        "import jax; from vitdeblur_jax import ViTDeblur, load_pretrained, deblur",
    ],
}
PHASES = (IMPORT, LOAD, TRACE, COMPILE, COMPUTE, FILES, "rest, and exit")


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> dict[str, float]:
    """Runs Python with these arguments; returns its seconds and its CPU seconds."""
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        said = process.stderr.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{arguments} failed:\n{said}")
    return {"seconds": seconds, "CPU": usage.ru_utime + usage.ru_stime}


def restore(image: Path, environment: Mapping[str, str]) -> dict[str, float]:
    """Restores an image; returns its seconds, its CPU seconds, and the seconds of each phase."""
    file = image.with_name("phases.json")
    command = [str(image), "-o", str(image.with_name("out.png")), "--force"]
    place = ["-m", "benchmarks.startup_phases", str(time.time()), str(file)]
    found = run([*place, *command], environment)
    phases = json.loads(file.read_text())
    return {**found, **phases, PHASES[-1]: found["seconds"] - sum(phases.values())}


def measure(image: Path, runs: int) -> tuple[dict[str, list], dict[str, list]]:
    """Returns the figures of all runs of `PROGRAMS`, and those of all restorations."""
    warm = {"XDG_CACHE_HOME": tempfile.mkdtemp(dir=image.parent)}
    restore(image, warm)
    programs = {name: [] for name in PROGRAMS}
    restored = {"first run": [], "second run": [], "no cache": []}
    for _ in range(runs):
        for name, arguments in PROGRAMS.items():
            programs[name].append(run(arguments, {}))
        empty = {"XDG_CACHE_HOME": tempfile.mkdtemp(dir=image.parent)}
        restored["first run"].append(restore(image, empty))
        restored["second run"].append(restore(image, warm))
        restored["no cache"].append(restore(image, {"JAX_ENABLE_COMPILATION_CACHE": "0"}))
    return programs, restored


def medians(runs: Sequence[Mapping[str, float]], names: Sequence[str]) -> list[str]:
    """Returns the median of each figure over the runs."""
    return [format_number(statistics.median(r.get(n, 0.0) for r in runs), 2) for n in names]


def main() -> None:
    """Runs the measurement and prints its tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "small.jpg"
        with Image.open(IMAGE) as large:
            large.convert("RGB").resize(SIZE).save(image, quality=95)
        programs, restored = measure(image, options.runs)
    total = ("seconds", "CPU")
    rows = [[name, *medians(runs, total)] for name, runs in programs.items()]
    print(format_table(["program", *total], rows), end="\n\n")
    figures = [medians(runs, [*PHASES, *total]) for runs in restored.values()]
    rows = zip([*PHASES, "all", "all, CPU"], *figures, strict=True)
    print(format_table(["restore", *restored], list(rows)))


if __name__ == "__main__":
    main()
