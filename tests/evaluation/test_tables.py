"""The tables of scores in each form, by made-up scores."""

import csv
import io
import json

import pytest

from vitdeblur_jax.evaluation import tables
from vitdeblur_jax.evaluation.metrics_json import image_record, new_method, new_scores, summarize

INFINITE = float("inf")
HOSTILE = "a\"b'<i>&amp;%_#$\\{}|*`[x](y)~^\n\x1b[31mñ\udcff"


def make(figures, missing=(), subsets=None, metrics=("psnr", "mae"), published=None):
    """Scores of methods, by name: for each image the figures of the metrics."""
    count = max(map(len, figures.values()))
    names = [f"image{i}" for i in range(count)]
    scores = new_scores("dpdd", "test", "/data", names, metrics)
    for name, rows in figures.items():
        method = new_method(name, "/saved", "input", "by source names")
        method["partial"] = name in missing
        for image, row in zip(names, rows, strict=False):
            values = dict(zip(metrics, map(float, row), strict=True))
            method["images"][image] = image_record(f"{image}.png", "", values)
        scores["methods"].append(method)
    scores["published"] = published or {}
    summarize(scores, subsets or {})
    return scores


@pytest.fixture
def scores():
    return make(
        {
            "one": [(20, 0.5), (22, 0.3)],
            "two": [(30, 0.2), (32, 0.1)],
            "three": [(25, 0.7), (26, 0.6)],
        }
    )


def test_summary(scores):
    first = scores["methods"][0]
    assert first["mean"] == pytest.approx({"psnr": 21, "mae": 0.4})
    assert first["interval"]["psnr"] == (20, 22)
    compared = [(c["metric"], c["better"], c["worse"]) for c in scores["comparisons"]]
    assert ("psnr", "two", "one") in compared
    assert len(set(compared)) == 6
    assert scores["comparisons"][0]["by"] == pytest.approx(10)
    json.dumps(scores, allow_nan=False)


def test_infinite_figures_are_null():
    scores = make({"same": [(INFINITE, 0), (30, 0.1)], "other": [(20, 0.1), (20, 0.1)]})
    same = scores["methods"][0]
    assert same["images"]["image0"]["metrics"] == {"psnr": None, "mae": 0}
    assert same["mean"]["psnr"] is None
    assert same["interval"]["psnr"] is None
    assert [c["metric"] for c in scores["comparisons"]] == ["mae"]
    assert "**inf**" in tables.markdown(scores)
    assert "same,all,0,psnr,inf,,," in tables.table_csv(scores).splitlines()


def places(scores):
    rows = tables.make_tables(scores)[0].rows
    header = tables.make_tables(scores)[0].header
    columns = {header[i]: [row[i].place for row in rows] for i in range(len(header))}
    return columns["PSNR"], columns["MAE"]


def test_best_and_second(scores):
    psnr, mae = places(scores)
    assert psnr == [0, tables.BEST, tables.SECOND]
    assert mae == [tables.SECOND, tables.BEST, 0]


def test_equal_figures_share_a_place():
    psnr, _ = places(make({"a": [(20, 0)], "b": [(20.00001, 0)], "c": [(19, 0)]}))
    assert psnr == [tables.BEST, tables.BEST, tables.SECOND]
    assert places(make({"alone": [(20, 0)]})) == ([0], [0])


def test_a_partial_row_is_marked_and_takes_no_place():
    scores = make({"part": [(40, 0.01)], "whole": [(20, 0.1), (20, 0.1)]}, missing=["part"])
    assert places(scores)[0] == [0, 0]
    text = tables.terminal(scores, styled=False)
    (row,) = [line for line in text.splitlines() if line.startswith("part ")]
    assert row.split() == ["part", "40.000*", "n/a*", "0.0100*", "n/a*"]
    assert "*: over a part of the images" in text
    assert r"40.000\*" in tables.markdown(scores)


def test_forms(scores):
    plain, styled = (tables.terminal(scores, styled) for styled in (False, True))
    assert "\x1b" not in plain
    assert "\x1b[1m31.000\x1b[0m" in styled
    assert "\x1b[3m25.500\x1b[0m" in styled
    assert styled.replace("\x1b[1m", "").replace("\x1b[3m", "").replace("\x1b[0m", "") == plain
    markdown = tables.markdown(scores)
    assert "| two | **31.000** | 30.000 to 32.000 | **0.1500** |" in markdown
    assert "| three | *25.500* |" in markdown
    latex = tables.latex(scores)
    assert r"two & \textbf{31.000} & 30.000 to 32.000 & \textbf{0.1500}" in latex
    assert r"three & \textit{25.500} &" in latex
    for text in (plain, markdown, latex):
        assert "PSNR in dB, data range 1" in text
        assert "by source names" in text


def test_differences_from_the_best_alone(scores):
    rows = tables.make_tables(scores)[-1].rows
    assert all("two" in (row[1].text, row[2].text) for row in rows)
    assert len(rows) == 4


def test_each_row_says_which_method_is_better_and_by_how_much(scores):
    rows = [[cell.text for cell in row] for row in tables.make_tables(scores)[-1].rows]
    assert tables.make_tables(scores)[-1].header[1:4] == ["better", "than", "by"]
    assert [row[:4] for row in rows] == [
        ["PSNR", "two", "one", "10.000"],
        ["MAE", "two", "one", "0.2500"],  # of which the lower is better
        ["PSNR", "two", "three", "5.500"],
        ["MAE", "two", "three", "0.5000"],
    ]
    assert rows[1][4] == "0.2000 to 0.3000"
    equal = make({"a": [(20, 0.1)], "b": [(20, 0.2)]})
    assert [cell.text for cell in tables.make_tables(equal)[-1].rows[0]][3] == "equal"


@pytest.mark.parametrize(
    ("first", "second", "means", "difference"),
    [
        *((0.50004, 0.49996, ("0.5000", "0.5000"), "equal"),),
        *((0.50006, 0.50004, ("0.5001", "0.5000"), "0.0001"),),
        *((0.50014, 0.49996, ("0.5001", "0.5000"), "0.0001"),),
    ],
)
def test_a_difference_is_that_of_the_printed_means(first, second, means, difference):
    main, *_, comparison = tables.make_tables(make({"a": [(20, first)], "b": [(20, second)]}))
    assert tuple(row[3].text for row in main.rows) == means
    assert comparison.rows[1][3].text == difference


def test_subsets():
    figures = {"a": [(20, 0.1), (30, 0.1), (40, 0.1)], "b": [(21, 0.1), (22, 0.1)]}
    scores = make(figures, subsets={"indoor": ["image0", "image2"], "outdoor": ["image1"]})
    assert scores["methods"][0]["subsets"]["indoor"]["psnr"] == 30
    assert scores["methods"][1]["subsets"]["outdoor"]["psnr"] == 22
    titles = [table.title for table in tables.make_tables(scores)]
    assert titles == ["dpdd test, 3 images", "indoor", "outdoor", "differences from the best"]
    assert "a,indoor,0,psnr,30.0,,," in tables.table_csv(scores).splitlines()


def test_published_beside_measured():
    published = {"one": {"psnr": 20.5}, "NRKNet": {"psnr": 26.109}}
    scores = make({"one": [(20, 0.5), (22, 0.3)]}, published=published)
    table = tables.make_tables(scores)[0]
    assert table.header[:5] == ["method", "PSNR", "95 % interval", "published", "difference"]
    assert "published" not in table.header[5:]
    rows = [[cell.text for cell in row] for row in table.rows]
    assert rows[0][:5] == ["one", "21.000", "20.000 to 22.000", "20.500", "+0.500"]
    assert rows[1] == ["NRKNet", "", "", "26.109", "", "", ""]


@pytest.fixture
def hostile():
    scores = make({HOSTILE: [(20, 0.5)], "other": [(21, 0.5)]})
    image = scores["methods"][0]["images"].pop("image0")
    scores["methods"][0]["images"][HOSTILE] = image | {"file": HOSTILE}
    return scores


def test_hostile_names_in_csv(hostile):
    for text in (tables.table_csv(hostile), tables.images_csv(hostile)):
        row = next(row for row in csv.reader(io.StringIO(text)) if row[0].startswith("a"))
        assert row[0] == HOSTILE.replace("\udcff", "\\udcff")
        text.encode()


def test_hostile_names_in_latex(hostile):
    (line,) = [
        x for x in tables.latex(hostile).splitlines() if x.startswith("a''b'") and "20.0" in x
    ]
    assert line.startswith(
        r"a''b'\textless{}i\textgreater{}\&amp;\%\_\#\$\textbackslash{}\{\}\textbar{}*`[x](y)"
        r"\textasciitilde{}\textasciicircum{}\textbackslash{}n\textbackslash{}x1b[31mñ"
        r"\textbackslash{}udcff & \textit{20.000}"
    )


def test_hostile_names_in_markdown(hostile):
    markdown = tables.markdown(hostile)
    (line,) = [line for line in markdown.splitlines() if line.startswith("| a") and "20.0" in line]
    assert line.startswith(
        r"""| a"b'\<i\>\&amp;%\_\#\$\\{}\|\*\`\[x\](y)\~^\\n\\x1b\[31mñ\\udcff | *20.000* |"""
    )


def test_hostile_names_on_a_terminal(hostile):
    text = tables.terminal(hostile, styled=False)
    assert "\x1b" not in text
    assert r"\n\x1b[31mñ\udcff" in text
    assert len([line for line in text.splitlines() if "20.000" in line]) == 1


def test_names_that_ascii_can_hold_stay(scores):
    assert tables.printable("Müller 2 (β)") == "Müller 2 (β)"
