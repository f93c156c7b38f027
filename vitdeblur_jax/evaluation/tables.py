"""Tables of scores as plain text, Markdown, LaTeX and CSV.

The best value of a column is bold and the second best italic. Values that are equal after rounding
share a rank. Values over a part of the images have an asterisk and no rank.
"""

import csv
import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from vitdeblur_jax.utils.output import printable
from vitdeblur_jax.utils.table import format_table

BEST, SECOND = 1, 2
_INTERVALS = "intervals hold 95 % of the means of 10,000 resamples of the images"
_TESTS = (
    "p: two-sided Wilcoxon signed-rank test over images; n/a with fewer than six differences that "
    "are not zero"
)
_PARTIAL = "*: over a part of the images"
_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", '"': "''", "|": r"\textbar{}"}
)


class Cell(NamedTuple):
    """The text of a table cell and its rank in the column: `BEST`, `SECOND` or 0."""

    text: str
    place: int = 0


class Table(NamedTuple):
    """A table before formatting."""

    title: str
    header: list[str]
    rows: list[list[Cell]]


def make_tables(scores: dict[str, Any]) -> list[Table]:
    """Returns the tables of scores: all images, each subset, and the differences from the best."""
    subsets = dict.fromkeys(key for method in scores["methods"] for key in method["subsets"])
    tables = [_main_table(scores), *(_subset_table(scores, subset) for subset in subsets)]
    return [*tables, _comparison_table(scores)] if scores["comparisons"] else tables


def footnotes(scores: dict[str, Any]) -> list[str]:
    """Returns one line for each note about the values."""
    definitions = scores["definitions"].values()
    lines = [f"{d['title']}: {d['definition']}; {d['better']} is better" for d in definitions]
    lines += [_INTERVALS] + [_TESTS] * bool(scores["comparisons"])
    for method in scores["methods"]:
        lines.append(f"{method['name']}: {'; '.join([method['rule'], *method['notes']])}")
    lines += [_PARTIAL] * any(method["partial"] for method in scores["methods"])
    return [*lines, *scores["notes"]]


def terminal(scores: dict[str, Any], styled: bool) -> str:
    """Returns all tables and footnotes as plain text; `styled` marks ranks with ANSI codes."""
    blocks = [_plain(table, styled) for table in make_tables(scores)]
    return "\n\n".join([*blocks, "\n".join(map(printable, footnotes(scores)))])


def markdown(scores: dict[str, Any]) -> str:
    """Returns all tables and footnotes as Markdown."""
    lines = []
    for table in make_tables(scores):
        cells = [[_in_markdown(cell) for cell in row] for row in table.rows]
        header = [_in_markdown(Cell(text)) for text in table.header]
        rule = ["---", *["---:"] * (len(header) - 1)]
        lines += [f"## {_in_markdown(Cell(table.title))}", ""]
        lines += [f"| {' | '.join(row)} |" for row in (header, rule, *cells)] + [""]
    notes = [f"- {_in_markdown(Cell(note))}" for note in footnotes(scores)]
    return "\n".join([*lines, *notes]) + "\n"


def latex(scores: dict[str, Any]) -> str:
    r"""Returns each table as a LaTeX `tabular`, followed by the footnotes as comments."""
    blocks = []
    for table in make_tables(scores):
        rows = [[_in_latex(Cell(text)) for text in table.header]]
        rows += [[_in_latex(cell) for cell in row] for row in table.rows]
        lines = [" & ".join(row) + r" \\" for row in rows]
        blocks += [
            f"% {printable(table.title)}",
            rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}",
        ]
        blocks += [r"\hline", lines[0], r"\hline", *lines[1:], r"\hline", r"\end{tabular}", ""]
    return "\n".join([*blocks, *(f"% {printable(note)}" for note in footnotes(scores))]) + "\n"


def table_csv(scores: dict[str, Any]) -> str:
    """Returns CSV with the mean, interval and published value by method, subset and metric."""
    rows = []
    for method in scores["methods"]:
        name, missing = method["name"], len(method["missing"])
        published = scores["published"].get(name, {})
        for metric, mean in method["mean"].items():
            interval = method["interval"][metric] or ("", "")
            figures = (_number(mean), *interval, published.get(metric, ""))
            rows.append((name, "all", missing, metric, *figures))
        for subset, means in method["subsets"].items():
            rows += [(name, subset, missing, m, _number(x), "", "", "") for m, x in means.items()]
    header = ("method", "subset", "missing", "metric", "mean", "low", "high", "published")
    return _csv(header, rows)


def images_csv(scores: dict[str, Any]) -> str:
    """Returns CSV with a row for each method and image."""
    metrics = list(scores["definitions"])
    rows = [
        (
            *(method["name"], name, record["file"], record["size_note"]),
            *(_number(record["metrics"][metric]) for metric in metrics),
        )
        for method in scores["methods"]
        for name, record in method["images"].items()
    ]
    return _csv(("method", "image", "file", "size_note", *metrics), rows)


def _main_table(scores):
    published, metrics = scores["published"], scores["definitions"]
    columns = [[Cell(method["name"]) for method in scores["methods"]]]
    unscored = [name for name in published if name not in {cell.text for cell in columns[0]}]
    columns[0] += [Cell(name) for name in unscored]
    header = ["method"]
    for metric, definition in metrics.items():
        digits = definition["digits"]
        means = [method["mean"] for method in scores["methods"]]
        header += [definition["title"], "95 % interval"]
        blank = [Cell("")] * len(unscored)
        columns.append(_figures(scores, metric, means) + blank)
        spans = [_span(m["interval"][metric], digits) + _mark(m) for m in scores["methods"]]
        columns.append([*map(Cell, spans), *blank])
        if any(metric in row for row in published.values()):
            header += ["published", "difference"]
            figures = [published.get(cell.text, {}).get(metric) for cell in columns[0]]
            columns.append([Cell("" if x is None else f"{x:.3f}") for x in figures])
            gains = [
                "" if figure is None else _gain(method, metric, figure)
                for method, figure in zip(scores["methods"], figures, strict=False)
            ]
            columns.append([*map(Cell, gains), *blank])
    title = f"{scores['set']} {scores['split']}, {len(scores['images'])} images"
    return Table(title, header, [list(row) for row in zip(*columns, strict=True)])


def _subset_table(scores, subset):
    means = [method["subsets"].get(subset, {}) for method in scores["methods"]]
    columns = [[Cell(method["name"]) for method in scores["methods"]]]
    columns += [_figures(scores, metric, means) for metric in scores["definitions"]]
    header = ["method", *(d["title"] for d in scores["definitions"].values())]
    return Table(subset, header, [list(row) for row in zip(*columns, strict=True)])


def _comparison_table(scores):
    header = ["metric", "better", "than", "by", "95 % interval", "p"]
    best = {metric: _best(scores, metric) for metric in scores["definitions"]}
    rows = []
    for one in scores["comparisons"]:
        if best[one["metric"]] not in (one["better"], one["worse"]):
            continue
        definition = scores["definitions"][one["metric"]]
        digits, p_value = definition["digits"], one["p_value"]
        rows.append(
            [
                *(Cell(text) for text in (definition["title"], one["better"], one["worse"])),
                Cell(_difference(scores, one, digits)),
                Cell(_span(one["interval"], digits)),
                Cell("n/a" if p_value is None else f"{p_value:.2g}"),
            ]
        )
    return Table("differences from the best", header, rows)


def _difference(scores, one, digits):
    """Returns the difference of the means as they are printed, which readers subtract.

    A method that does not cover all images is compared on those that both cover.
    """
    methods = {method["name"]: method for method in scores["methods"]}
    pair = [methods[one[role]] for role in ("better", "worse")]
    by = round(one["by"], digits)
    if not any(method["partial"] for method in pair):
        first, second = (round(_number(method["mean"][one["metric"]]), digits) for method in pair)
        by = abs(first - second) if math.isfinite(first - second) else by
    return f"{by:.{digits}f}" if round(by, digits) else "equal"


def _best(scores, metric):
    """Returns the name of the best method. Methods that cover all images take precedence."""
    sign = 1 if scores["definitions"][metric]["better"] == "higher" else -1
    methods = [method for method in scores["methods"] if method["mean"]]
    order = [(not m["partial"], sign * _number(m["mean"][metric])) for m in methods]
    return methods[order.index(max(order))]["name"]


def _figures(scores, metric, means):
    """Returns a column of means with their ranks."""
    definition = scores["definitions"][metric]
    digits, sign = definition["digits"], 1 if definition["better"] == "higher" else -1
    values = [round(_number(mean[metric]), digits) if metric in mean else None for mean in means]
    rows = list(zip(values, scores["methods"], strict=True))
    ranked = {value for value, method in rows if value is not None and not method["partial"]}
    best_first = sorted(ranked, key=lambda value: -sign * value)
    places = dict(zip(best_first, (BEST, SECOND), strict=False)) if len(ranked) > 1 else {}
    return [
        Cell("-")
        if value is None
        else Cell(f"{value:.{digits}f}*")
        if method["partial"]
        else Cell(f"{value:.{digits}f}", places.get(value, 0))
        for value, method in rows
    ]


def _number(value):
    return float("inf") if value is None else value


def _mark(method):
    return "*" if method["partial"] else ""


def _gain(method, metric, published):
    return f"{_number(method['mean'][metric]) - published:+.3f}{_mark(method)}"


def _span(interval, digits):
    ends = interval and [f"{end:.{digits}f}" for end in interval]
    return " to ".join(ends) if ends else "n/a"


def _plain(table: Table, styled: bool) -> str:
    header = list(map(printable, table.header))
    rows = [[printable(cell.text) for cell in row] for row in table.rows]
    lines = format_table(header, rows).splitlines()
    if styled:
        columns = [found.span() for found in re.finditer("-+", lines[1])]
        for number, row in enumerate(table.rows, 2):
            lines[number] = _style(lines[number], columns, [cell.place for cell in row])
    return "\n".join([printable(table.title), *lines])


def _style(line: str, columns: Sequence[tuple[int, int]], places: Sequence[int]) -> str:
    codes = {BEST: "\x1b[1m", SECOND: "\x1b[3m"}
    for (start, end), place in reversed(list(zip(columns, places, strict=True))):
        if place:
            figure = line[start:end]
            blank = len(figure) - len(figure.lstrip())
            marked = f"{figure[:blank]}{codes[place]}{figure[blank:]}\x1b[0m"
            line = line[:start] + marked + line[end:]
    return line


def _in_markdown(cell: Cell) -> str:
    text = re.sub(r"([\\`*_\[\]<>#|&~$])", r"\\\1", printable(cell.text))
    return _marked(text, cell.place, "**{}**".format, "*{}*".format)


def _in_latex(cell: Cell) -> str:
    text = printable(cell.text).translate(_LATEX)
    return _marked(text, cell.place, r"\textbf{{{}}}".format, r"\textit{{{}}}".format)


def _marked(text: str, place: int, best: Callable, second: Callable) -> str:
    return {BEST: best, SECOND: second}.get(place, str)(text)


def _csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([header, *rows])
    # File names that are not UTF-8 contain characters that cannot be encoded.
    return text.getvalue().encode("utf-8", "backslashreplace").decode()
