r"""All figures of one GPU or TPU, in one command of at most eight minutes.

    python -m benchmarks.accelerator --out FOLDER

It writes `accelerator.json` and `accelerator.md` after each part, so a run that is cut short leaves
what it has. Each part runs in its own process and is killed at its limit; the time that it leaves
goes to the parts after it. What fails is listed with its reason. `--small` rehearses everything
with tiny shapes on a CPU; its figures mean nothing.

| part | what it measures |
|---|---|
| device | device, driver, versions; the rate of a matrix product, which is the limit |
| parity | every stage and a whole image beside golden outputs of the PyTorch code |
| windows | windows a second of the base model, batch 1, 8 and 32 |
| pytorch_windows | the same in PyTorch, eager and compiled; a photograph too |
| photograph | an image of 1680 x 1120, from array to array and from PNG to PNG |
| training | training steps at crop 360, batch 2, 8 and 16, activations kept and recomputed |
| pytorch_training | the same in PyTorch |
| run | two minutes of `configs/tiny.py` on synthetic defocus, with its log |

float32 is `precision="highest"`, TF32 is `precision="high"`, bfloat16 is `dtype="bfloat16"`. Times
are medians after warm-up, until the result is ready. The memory of a JAX step is what its compiled
program reserves: state, batch and temporaries. That of PyTorch is the peak of its allocator.

All parts need jax, flax, optax, orbax-checkpoint, numpy, scipy, pillow, jaxtyping, absl-py,
safetensors and ml_collections, which is pure Python. The PyTorch parts need torch. `photograph`
from file to file needs imagecodecs, simplejpeg and tifffile in addition; `run` needs these, grain,
array_record, cloudpickle, packaging, portpicker, tensorboardX and tqdm. Bring what a machine
without a network lacks as wheels for its Python:

    pip download --no-deps --only-binary=:all: --dest wheels --python-version 3.12 \
      --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 ml_collections imagecodecs \
      simplejpeg grain array_record cloudpickle packaging portpicker tensorboardX tqdm
    pip install --no-index --no-deps --target packages wheels/*.whl
    PYTHONPATH=packages python -m benchmarks.accelerator --out FOLDER
"""

import argparse
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.accelerator_tables import markdown
from vitdeblur_jax.utils.errors import one_line

_ROOT = Path(__file__).parents[1]


class Part(NamedTuple):
    """A part of the measurement.

    Attributes:
      name: Name of the generator of its rows.
      module: Module of this generator.
      until: Seconds from the start of the command after which the part is killed.
    """

    name: str
    module: str
    until: float


PARTS = (
    Part("device", "benchmarks.accelerator_jax", 50),
    Part("parity", "benchmarks.accelerator_jax", 95),
    Part("windows", "benchmarks.accelerator_jax", 155),
    Part("pytorch_windows", "benchmarks.accelerator_pytorch", 205),
    Part("photograph", "benchmarks.accelerator_jax", 245),
    Part("training", "benchmarks.accelerator_training", 325),
    Part("pytorch_training", "benchmarks.accelerator_pytorch", 355),
    Part("run", "benchmarks.accelerator_training", 480),
)


def main() -> None:
    """Runs all parts, or one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of the results")
    parser.add_argument("--small", action="store_true", help="tiny shapes, for a rehearsal")
    parser.add_argument("--part", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        name, module, rows, seconds = options.part
        try:
            write_rows(Part(name, module, 0), options.small, Path(rows), float(seconds))
        except Exception as error:
            traceback.print_exc()
            # The last line, which is the reason.
            sys.exit(f"{type(error).__name__}: {one_line(error)}")
    else:
        measure(PARTS, options.out, options.small)


def write_rows(part: Part, small: bool, path: Path, seconds: float) -> None:
    """Appends the rows of a part to a file, each as soon as it is known.

    Args:
      part: The part.
      small: Whether to use tiny shapes.
      path: The file.
      seconds: Time until the part is killed.
    """
    rows = getattr(importlib.import_module(part.module), part.name)
    with open(path, "a", encoding="utf-8") as file:
        for row in rows(small, seconds):
            file.write(json.dumps(row) + "\n")
            file.flush()


def measure(parts: tuple[Part, ...], out: Path, small: bool) -> dict[str, Any]:
    """Runs parts one after the other, and writes the results after each.

    Args:
      parts: The parts.
      out: Folder of the results; created if missing.
      small: Whether to use tiny shapes.

    Returns:
      What `accelerator.json` holds.
    """
    out.mkdir(parents=True, exist_ok=True)
    date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    result = {"date": date, "small": small, "parts": {}}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        for part in parts:
            limit = part.until - (time.monotonic() - began)
            found = run_part(part, small, Path(scratch), limit)
            result["parts"][part.name] = found
            print(f"{part.name}: {found['seconds']} s, {len(found['rows'])} rows", *found["failed"])
            (out / "accelerator.json").write_text(json.dumps(result, indent=1) + "\n")
            (out / "accelerator.md").write_text(markdown(result))
    return result


def run_part(part: Part, small: bool, scratch: Path, limit: float) -> dict[str, Any]:
    """Runs a part in a process of its own and kills it, and what it started, at the limit.

    Returns:
      Its `rows`, the `seconds` that it took, and a list `failed` of why it ended early, if it did.
    """
    rows, log = scratch / f"{part.name}.jsonl", scratch / f"{part.name}.log"
    rows.touch()
    words = ["--part", part.name, part.module, str(rows), str(limit), *["--small"][: int(small)]]
    began = time.monotonic()
    with open(log, "w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.accelerator", *words],
            cwd=_ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=_environment(scratch, small),
        )
        try:
            process.wait(max(limit, 0))
            failed = _why_it_failed(process.returncode, log)
        except subprocess.TimeoutExpired:
            failed = [f"stopped after {limit:.0f} s"]
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    lines = rows.read_text(encoding="utf-8").splitlines(keepends=True)
    return {
        "seconds": round(time.monotonic() - began, 1),
        "failed": failed,
        "rows": [json.loads(line) for line in lines if line.endswith("\n")],
    }


def _environment(scratch: Path, small: bool) -> dict[str, str]:
    """Returns the environment of a part: all parts share what JAX has compiled."""
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(scratch / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }
    if small:
        settings |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "OMP_NUM_THREADS": "1"}
    return {**settings, **os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _why_it_failed(status: int, log: Path) -> list[str]:
    if status == 0:
        return []
    if status < 0:
        return [f"ended by {signal.Signals(-status).name}; SIGKILL can mean that memory ran out"]
    lines = log.read_text(errors="replace").strip().splitlines() or [f"exit status {status}"]
    return [lines[-1][:300]]


if __name__ == "__main__":
    main()
