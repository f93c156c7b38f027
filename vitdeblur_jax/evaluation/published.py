"""The published results table, `published.csv`: one row for each set and system.

Each column has the name of our metric that it is compared with.
"""

import csv
from collections.abc import Sequence
from importlib.resources import files
from typing import NamedTuple

from vitdeblur_jax.metrics import METRICS
from vitdeblur_jax.utils.errors import UserError

# Why a measured figure may differ from the published one for the same image.
NOTES = {
    "lpips_squeeze": "the published LPIPS is the SqueezeNet version with the channels in BGR "
    "order, as the released evaluation computes it; other papers quote AlexNet",
    "fsimc": "the published column is called FSIM; whether it holds FSIM or FSIMc is not said",
    "musiq": "which implementation gave the published MUSIQ is not said",
    "ckdn": "which implementation and which reference gave the published CKDN is not said",
}
IMAGES = {"dpdd": 76, "realdof": 50, "lfdof": 725}


class Published(NamedTuple):
    """The published figures of a set.

    Attributes:
      figures: by system, then by metric.
      source: where they were published.
    """

    figures: dict[str, dict[str, float]]
    source: str


def published_figures(layout: str, split: str) -> Published:
    """Reads the published figures of a set.

    Raises:
      UserError: No figures were published for this set and split.
    """
    if layout not in IMAGES or split != "test":
        raise UserError(
            f"nothing was published for the {split} split of {layout}; leave out --published, or "
            f"take the test split of one of {', '.join(IMAGES)}"
        )
    with (files(__package__) / "published.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.pop("set") == layout]
    (source,) = {row.pop("source") for row in rows}
    figures = {row.pop("system"): {m: float(value) for m, value in row.items()} for row in rows}
    return Published(figures, source)


def published_notes(layout: str, source: str, count: int, metrics: Sequence[str]) -> list[str]:
    """Returns what to know when figures are compared with the published ones.

    Args:
      layout: The set.
      source: Where its figures were published.
      count: Number of images that were scored.
      metrics: The metrics that were computed.
    """
    notes = [f"published: {source}"]
    if count != IMAGES[layout]:
        notes.append(f"the published figures are over {IMAGES[layout]} images, these over {count}")
    return notes + [f"{METRICS[m].title}: {NOTES[m]}" for m in metrics if m in NOTES]
