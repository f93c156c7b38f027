"""The Markdown of `benchmarks.accelerator`: one table for each question, ours beside PyTorch.

A row of a part has `case` and one of

- `value`: a fact about the machine;
- `seconds`: the time of `count` windows, photographs or steps on one `side` ("ours" if there is no
  such key), with `numerics`, the `flops` of its products, and `memory` in bytes;
- `difference`: from a golden output;
- other keys: the log of a run;
- `error`: why there is no figure.
"""

from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]
PARITY = 1e-4  # the bound in float32
_SIDES = ("ours", "PyTorch eager", "PyTorch compiled")
_QUESTIONS = {
    "windows": ("Windows a second", ("windows", "pytorch_windows"), "rate"),
    "photograph": ("Seconds for a photograph", ("photograph", "pytorch_windows"), "seconds"),
    "training": ("Training steps a second", ("training", "pytorch_training"), "rate"),
}


def markdown(result: Row) -> str:
    """Returns the page.

    Args:
      result: What `accelerator.json` holds.
    """
    parts = result["parts"]
    rows = {name: part["rows"] for name, part in parts.items()}
    device = [*rows.get("device", ()), *_of(rows.get("pytorch_windows", ()), "value")]
    rates = matrix_rates(rows)
    lines = ["# One accelerator", "", f"Measured {result['date']}.", ""]
    if result["small"]:
        lines += ["**A rehearsal with tiny shapes: these figures mean nothing.**", ""]
    facts = [(row["case"], row["value"]) for row in _of(device, "value")]
    lines += [*_table(("", ""), facts), "", "## Matrix product, TFLOP/s", ""]
    lines += [*_table(("numerics", "JAX", "PyTorch"), _rates_table(rates)), ""]
    lines += ["## Differences from the golden outputs", "", *_parity(rows.get("parity", ())), ""]
    for question in _QUESTIONS:
        lines += [f"## {_QUESTIONS[question][0]}", "", *_comparison(question, rows, rates), ""]
    lines += ["## A run on synthetic defocus", "", *_log(rows.get("run", ())), ""]
    return "\n".join([*lines, "## What failed", "", *_failures(parts)]) + "\n"


def matrix_rates(rows: dict[str, Sequence[Row]]) -> dict[tuple[str, str], float]:
    """Returns the FLOP/s of a matrix product, by side ("JAX" or "PyTorch") and numerics."""
    return {
        (side, row["numerics"]): row["flops"] / row["seconds"]
        for side, part in (("JAX", "device"), ("PyTorch", "pytorch_windows"))
        for row in _of(rows.get(part, ()), "seconds")
        if row["case"].startswith("matrix product")
    }


def _rates_table(rates) -> list[Sequence[str]]:
    names = list(dict.fromkeys(name for _, name in rates))
    return [
        (name, *(_digits(rates.get((side, name)), 1e12) for side in ("JAX", "PyTorch")))
        for name in names
    ]


def _comparison(question: str, rows: dict[str, Sequence[Row]], rates) -> list[str]:
    """Returns the table of a question.

    The share is of the higher rate of a matrix product with the same numerics. The ratio is how
    many times as fast ours is as the faster PyTorch.
    """
    _, parts, unit = _QUESTIONS[question]
    cases: dict[str, dict[str, Row]] = {}
    for part in parts:
        for row in _of(rows.get(part, ()), "numerics"):
            is_asked = row.get("question", part.removeprefix("pytorch_")) == question
            if is_asked and not row["case"].startswith("matrix product"):
                cases.setdefault(row["case"], {})[row.get("side", _SIDES[0])] = row
    has_memory = question == "training"
    header = ["case", *_SIDES, "ours / faster PyTorch", "share of the matrix product"]
    header += ["memory, GB", "PyTorch's", "compiled"] if has_memory else []
    lines = [_line(case, sides, unit, rates, has_memory) for case, sides in cases.items()]
    return _table(header, lines)


def _line(case, sides: dict[str, Row], unit, rates, has_memory) -> list[str]:
    seconds = {
        side: row["seconds"] / row["count"] for side, row in sides.items() if "seconds" in row
    }
    shown = []
    for side in _SIDES:
        if side in seconds:
            shown.append(_digits(seconds[side] if unit == "seconds" else 1 / seconds[side]))
        else:
            shown.append("failed" if side in sides else "-")
    ours = sides.get(_SIDES[0], {})
    theirs = [seconds[side] for side in _SIDES[1:] if side in seconds]
    ratio = share = None
    if "seconds" in ours:
        ratio = min(theirs) / seconds[_SIDES[0]] if theirs else None
        limits = [rate for (_, name), rate in rates.items() if name == ours["numerics"]]
        share = ours["flops"] / ours["seconds"] / max(limits) if limits else None
    memory = [_digits(sides.get(side, {}).get("memory"), 1e9) for side in _SIDES]
    percent = "-" if share is None else f"{100 * share:.0f} %"
    return [case, *shown, _digits(ratio), percent, *(memory if has_memory else ())]


def _parity(rows: Iterable[Row]) -> list[str]:
    found = _of(rows, "difference")
    names = list(dict.fromkeys(row["numerics"] for row in found))
    by_case: dict[str, dict[str, float]] = {}
    for row in found:
        by_case.setdefault(row["case"], {})[row["numerics"]] = row["difference"]
    lines = [
        (case, *(f"{values[name]:.1e}" if name in values else "-" for name in names))
        for case, values in by_case.items()
    ]
    worst = max((row["difference"] for row in found if row["numerics"] == "float32"), default=None)
    if worst is None:
        return ["No figures."]
    verdict = "within" if worst <= PARITY else "NOT within"
    note = f"float32: {worst:.1e} at most, {verdict} {PARITY:.0e}."
    return [*_table(("stage", *names), lines), "", note]


def _log(rows: Sequence[Row]) -> list[str]:
    keys = [key for key in dict.fromkeys(key for row in rows for key in row) if key != "case"]
    lines = [(row["case"], *(_digits(row.get(key)) for key in keys)) for row in rows]
    return _table(("", *keys), lines)


def _failures(parts: dict[str, Row]) -> list[str]:
    found = [(name, reason) for name, part in parts.items() for reason in part["failed"]]
    for name, part in parts.items():
        for row in _of(part["rows"], "error"):
            found.append((f"{name}: {row.get('side', _SIDES[0])}, {row['case']}", row["error"]))
    return _table(("part", "reason"), found) if found else ["Nothing."]


def _of(rows: Iterable[Row], key: str) -> list[Row]:
    return [row for row in rows if key in row]


def _digits(value: float | None, unit: float = 1.0) -> str:
    return "-" if value is None else f"{value / unit:.4g}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    if not cells:
        return ["No figures."]
    lines = [f"| {' | '.join(row)} |" for row in [header, *cells]]
    return [lines[0], "|" + "---|" * len(header), *lines[1:]]
