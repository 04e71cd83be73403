"""The report of several methods: the numbers shown, the better ones named."""

import re
import struct

import pytest

from t5patches import report
from t5patches.report import curves, methods_report, rendering
from t5patches.sweep import choice

FAILED = {"method": "ul", "alpha": 16.0, "learning_rate": 0.1, "failed": "it is NaN"}
TITLES = {"tnff": "TNFF", "ul": "UL", "filtered": "<filtered>"}


def scores(after, same, bleu):
    return {
        "examples": 500,
        "prevalence": {"before": 0.4, "after": after},
        "exact_match": {"all": 0.5, "clean": same, "marked": 0.0},
        "bleu": bleu,
        "rougeL": bleu / 100,
        "subsets": {"clean": {"examples": 300}},
    }


def point(method, alpha, validation, test):
    row = {"name": f"{method}-{alpha}", "method": method, "alpha": alpha}
    splits = {"validation": scores(*validation), "test": scores(*test)}
    distance = {split: choice.distance(found) for split, found in splits.items()}
    costs = {"learning_rate": 0.001, "seconds": 40.4}
    return {**row, **costs, **splits, "distance": distance}


@pytest.fixture
def results():
    points = [
        point("tnff", 1.0, (0.2, 0.99, 90.0), (0.2, 0.99, 90.0)),
        point("tnff", 4.0, (0.02, 0.97, 89.0), (0.03, 0.96, 88.0)),
        point("ul", 4.0, (0.1, 0.9, 80.0), (0.04, 0.95, 81.0)),
        point("filtered", None, (0.1, 0.98, 80.0), (0.11, 0.99, 81.0)),
    ]
    return {
        "methods": ["tnff", "ul", "filtered"],
        "points": points,
        "chosen": {"tnff": "tnff-4.0", "ul": "ul-4.0", "filtered": "filtered-None"},
        "rule": "Chosen by hand.",
        "front": ["tnff", "filtered"],
        "beaten_by": {"tnff": [], "ul": ["tnff"], "filtered": []},
        "failed": [FAILED],
        "seed": 3,
    }


def test_terminal_table_has_the_best_first(results):
    lines = methods_report.terminal_table(results, TITLES).splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["TNFF", "UL", "<filtered>"]
    assert re.search(r"TNFF +4 +0.001 +3.0 % +1.8–4.9 +96.0 %.* 0$", lines[2])
    assert lines[3].endswith(" 1")
    assert lines[-1].startswith("TNFF and <filtered> are not beaten")


@pytest.mark.parametrize(
    ("methods", "front", "says"),
    [
        (["tnff"], ["tnff"], "one method alone"),
        (["tnff", "ul"], ["tnff"], "TNFF beats every other"),
        (["tnff", "ul"], ["ul", "tnff"], "UL and TNFF are not beaten.*UL is nearest"),
    ],
)
def test_headline(methods, front, says):
    found = methods_report.headline({"methods": methods, "front": front}, TITLES)
    assert re.search(says, found)


@pytest.mark.filterwarnings("error")
def test_page_and_picture(results, tmp_path):
    report.write_comparison(tmp_path, results, TITLES, settings={"pieces": 1000})
    page = (tmp_path / "report.html").read_text()
    text = re.sub(r"<[^>]*>", " ", page)
    # Every point of the grid, chosen or not, with its validation numbers.
    for row in results["points"]:
        shown = f"{row['distance']['validation']:.3f}"
        after = rendering.share(row["test"]["prevalence"]["after"])
        assert re.search(rf"{shown}\s+{after}", text)
    assert re.search(r"UL\s+16\s+0.1\s+it is NaN", text)
    assert "Chosen by hand." in text and "pieces" in text
    assert "&lt;filtered&gt;" in page and "<filtered>" not in page
    assert "http" not in page.replace("http-equiv", "")
    head = (tmp_path / "report.png").read_bytes()[:24]
    assert head.startswith(b"\x89PNG") and struct.unpack(">I", head[16:20])[0] == 2400


def test_the_best_of_a_column_and_what_is_not_told_from_it(results):
    rows = [row for row in results["points"] if row["name"] != "tnff-1.0"]
    tnff, ul, filtered = methods_report._marked(rows, TITLES)
    # 15 and 20 of 500 overlap, 55 of 500 do not; 300 clean inputs tell little.
    assert tnff[3] == "<strong>3.0 %</strong>" and ul[3] == "≈ 4.0 %"
    assert filtered[3] == "11.0 %"
    assert filtered[5] == "<strong>99.0 %</strong>"
    assert tnff[5] == "≈ 96.0 %" and ul[5] == "95.0 %"
    assert [row[7] for row in (tnff, ul)] == ["<strong>88.0</strong>", "81.0"]
    assert filtered[0] == "<filtered>"  # The template escapes it.


def test_intervals_of_the_results_are_taken(results, tmp_path):
    chosen = results["points"][1]["test"]
    chosen["intervals"] = {
        "prevalence": {"before": None, "after": [0.01, 0.125], "difference": None},
        "exact_match": {"clean": [0.9, 0.97]},
        "bleu": [80.5, 90.5],
    }
    table = report.write_comparison(tmp_path, results, TITLES)
    assert re.search(r"TNFF +4 +0.001 +3.0 % +1.0–12.5 +96.0 % +90.0–97.0", table)
    lines = [
        sorted(segment.tolist() for line in axes.collections
               for segment in line.get_segments())
        for axes in curves.draw(results, TITLES).axes
    ]  # fmt: skip
    assert lines[0] == [[[0.9, 0.03], [0.97, 0.03]], [[0.96, 0.01], [0.96, 0.125]]]
    assert lines[1] == [[[80.5, 0.03], [90.5, 0.03]], [[88.0, 0.01], [88.0, 0.125]]]
    text = (tmp_path / "report.csv").read_text(encoding="utf-8")
    assert 'prevalence,all,"tnff-4.0, test",0.03,0.01,0.125\n' in text
    assert len(text.splitlines()) == 1 + 4 * 2 * len(results["points"])


def test_lines_join_what_is_not_beaten():
    points = [(0.9, 0.3), (0.99, 0.2), (0.95, 0.1), (0.8, 0.1), (0.7, 0.05)]
    assert curves.best(points) == [(0.99, 0.2), (0.95, 0.1), (0.7, 0.05)]


def drawn(axes):
    """Returns the points of a panel, the small and the large marks together."""
    lines = [line for line in axes.lines[1:] if line.get_marker() != "None"]
    return {tuple(point) for line in lines for point in line.get_xydata()}


def test_an_update_that_made_it_worse_is_seen(results):
    results["points"][1]["test"]["prevalence"]["after"] = 0.6
    figure = curves.draw(results, TITLES)
    assert (0.96, 0.6) in drawn(figure.axes[0])
    assert figure.axes[0].get_ylim()[1] > 0.6


def test_the_exact_update_is_marked(results, tmp_path):
    results["points"][0]["test"]["exact_update"] = scores(0.0, 1.0, 95.0)
    figure = curves.draw(results, TITLES)
    assert (1.0, 0.0) in drawn(figure.axes[0]) and (95.0, 0.0) in drawn(figure.axes[1])
    table = report.write_comparison(tmp_path, results, TITLES)
    assert re.search(r"\nexact update +– +– +0.0 % .* 95.0 +0.950", table)
    page = (tmp_path / "report.html").read_text()
    assert "not the model conditioned on never saying a phrase" in page


def test_what_could_not_be_measured_is_not_drawn_as_nothing_kept(results):
    for row in results["points"]:
        row["test"]["exact_match"]["clean"] = None
    left, right = curves.draw(results, TITLES).axes
    assert drawn(left) == set() and len(drawn(right)) == len(results["points"])
    assert "nothing to measure" in [text.get_text() for text in left.texts]
    labels = left.get_legend_handles_labels()[1]
    assert labels == [TITLES[method] for method in results["methods"]]
