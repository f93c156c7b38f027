"""Prints the table of the study of recipes and draws its figure: docs/study.md.

    python -m benchmarks.study RUNS [docs/study.png]

RUNS is a folder with a workdir of `configs/study.py` for each variant, named after it.
"""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt

from configs.study import STEPS
from vitdeblur_jax.utils.table import format_table

SHARES = ("1/3", "2/3", "1")  # of the training, after which a run validates


def main(runs: str, figure: str = "study.png") -> None:
    """Prints the table of the complete runs and writes the figure."""
    curves = {name: validations(Path(runs, name)) for name in STEPS}
    curves = {name: curve for name, curve in curves.items() if len(curve) == len(SHARES)}
    header = ("variant", "steps", *(f"gain after {share}, dB" for share in SHARES), "SSIM")
    rows = [
        (
            name,
            str(STEPS[name]),
            *(f"{record['psnr_gain']:+.2f}" for record in curve),
            f"{curve[-1]['ssim']:.3f}",
        )
        for name, curve in curves.items()
    ]
    print(format_table(header, rows))
    _, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, curve in curves.items():
        gains = [record["psnr_gain"] for record in curve]
        axes.plot(range(len(gains) + 1), [0, *gains], marker=".", label=name)
    axes.set_xticks(range(len(SHARES) + 1), ("0", *SHARES))
    axes.set_xlabel("share of the steps")
    axes.set_ylabel("gain on the validation images, dB")
    axes.legend()
    plt.savefig(figure, dpi=120)


def validations(workdir: Path) -> list[dict]:
    """Returns the validation records of a run in order; empty if there is no run.

    The name of a data set before a metric is left out.
    """
    log = workdir / "log.jsonl"
    records = map(json.loads, log.read_text().splitlines()) if log.exists() else ()
    return [
        {key.rpartition("/")[-1]: value for key, value in record.items()}
        for record in records
        if record["kind"] == "validation"
    ]


if __name__ == "__main__":
    main(*sys.argv[1:])
