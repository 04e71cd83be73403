"""The report of several methods: the numbers shown, the better ones named."""

import copy
import re
import struct

import numpy as np
import pytest

from t5patches import report
from t5patches.report import curves, methods_report, points, rendering
from t5patches.sweep import choice

FAILED = {"method": "ul", "alpha": 16.0, "learning_rate": 0.1, "failed": "it is NaN"}
TITLES = {"tnff": "TNFF", "ul": "UL", "filtered": "<filtered>"}


def scores(after, same, bleu):
    alike = {"exact_match": 0.5, "bleu": bleu, "rougeL": bleu / 100}
    return {
        "examples": 500,
        "prevalence": {"before": 0.4, "after": after},
        "unwanted_per_1000_tokens": {"before": None, "after": None},
        "exact_match": {"all": 0.5, "clean": same, "marked": 0.5},
        "bleu": bleu,
        "rougeL": bleu / 100,
        "subsets": {
            "all": {"examples": 500, **alike},
            "clean": {"examples": 300, **alike, "exact_match": same},
            "marked": {"examples": 200, **alike},
        },
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
    assert re.search(r"TNFF +4 +0.001 +3.0 % +96.0 % +88.0 +0.880$", lines[2])
    assert re.search(r"the original +40.0 % +100.0 % +100.0 +1.000$", lines[5])
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
    results = {"methods": methods, "front": front, "rule": "Chosen by hand."}
    assert re.search(says, methods_report.headline(results, TITLES))
    # Evaluations come in the order in which they were given.
    assert "nearest" not in methods_report.headline({**results, "rule": ""}, TITLES)


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
    """Of p = 0.03 and 0.02 Holm makes 0.04 and 0.04, of 0.03 and 0.04 0.06 and 0.06."""

    def tested(other, prevalence, same):
        columns = {"prevalence": prevalence, "exact_match": same, "bleu": None}
        return {"methods": [other, "tnff"]} | {
            name: {"p": p} for name, p in columns.items()
        }

    _, rows = methods_report._table(results, TITLES)
    assert "≈" not in str(rows)
    results["comparisons"] = [
        tested("ul", 0.03, 0.5), tested("filtered", 0.02, 0.6)
    ]  # fmt: skip
    _, (tnff, ul, filtered, _) = methods_report._table(results, TITLES)
    assert (tnff[3], ul[3], filtered[3]) == (
        "<strong>3.0 %</strong>",
        "4.0 %",
        "11.0 %",
    )
    # There `filtered` is the best, and nobody has compared it with UL.
    assert (tnff[4], ul[4]) == ("≈ 96.0 %", "95.0 %")
    assert filtered[4] == "<strong>99.0 %</strong>" and filtered[-1] == "none"
    assert (tnff[5], ul[5]) == ("<strong>88.0</strong>", "81.0")
    assert filtered[0] == "<filtered>"  # The template escapes it.
    results["comparisons"][1]["prevalence"]["p"] = 0.04
    _, (_, ul, filtered, _) = methods_report._table(results, TITLES)
    assert (ul[3], filtered[3]) == ("≈ 4.0 %", "≈ 11.0 %")


def test_several_seeds_have_a_mean_and_a_range(results, tmp_path):
    """Marks: each update small, the mean large."""
    again = copy.deepcopy(results["points"][1])
    again |= {"name": "tnff-4.0-seed1", "seed": 1}
    again["test"]["prevalence"]["after"] = 0.05
    again["test"]["exact_match"]["clean"] = 0.9
    results["points"].append(again)
    report.write_comparison(tmp_path, results, TITLES)
    page = (tmp_path / "report.html").read_text()
    assert "4.0 % (3.0 to 5.0)" in page and "93.0 % (90.0 to 96.0)" in page
    assert "Of up to 2 seeds the mean" in page
    panel = curves.draw(results, TITLES).axes[0]
    large = [line for line in panel.lines if line.get_label() == "TNFF"]
    assert large[0].get_xydata() == pytest.approx(np.array([[0.93, 0.04]]))
    assert {(0.96, 0.03), (0.9, 0.05)} <= drawn(panel)


def test_the_control_is_no_method(results, tmp_path):
    control = copy.deepcopy(results["points"][0])
    control |= {"name": "control", "method": "control", "control": True}
    control["test"]["prevalence"]["after"] = 0.375
    results["points"].append(control)
    table = report.write_comparison(tmp_path, results, TITLES)
    assert re.search(r"\nno-op control +1 +0.001 +37.5 % +99.0 %", table)
    figure = curves.draw(results, TITLES)
    assert (0.99, 0.375) in drawn(figure.axes[0])
    assert "no-op control" in figure.axes[0].get_legend_handles_labels()[1]
    assert "no-op control" in (tmp_path / "report.html").read_text()


def test_distances_and_what_is_learned_again(results, tmp_path):
    tnff = results["points"][1]
    tnff["relearned"] = {"steps": 1200, "test": scores(0.25, 0.5, 50.0)}
    tnff["test"]["distances"] = {
        "kl_original": 0.00123,
        "total_variation": 0.25,
        "unwanted_probability": {"before": 0.5, "after": 0.125},
    }
    table = report.write_comparison(tmp_path, results, TITLES)
    assert re.search(r"TNFF .* 0.880 +0.0012 +25.0 % +12.5 %", table)
    text = re.sub(r"<[^>]*>", " ", (tmp_path / "report.html").read_text())
    assert re.search(r"TNFF\s+1,200\s+3.0 %\s+25.0 %\s+96.0 %\s+50.0 %", text)
    numbers = (tmp_path / "report.csv").read_text()
    assert 'prevalence,all,"tnff-4.0, relearned",0.25,,\n' in numbers
    assert 'unwanted_probability,all,"tnff-4.0, test",0.125,,\n' in numbers


def test_lines_go_by_alpha_at_a_rate_or_by_the_rate():
    places = [(4.0, 0.1), (1.0, 0.1), (1.0, 0.2), (None, 0.3), (None, 0.1)]
    found = [points.Setting("tnff", *place) for place in places]
    lines = [
        [(s.alpha, s.learning_rate) for s in line] for line in curves._lines(found)
    ]
    assert sorted(lines, key=len) == [
        [(1.0, 0.2)], [(None, 0.1), (None, 0.3)], [(1.0, 0.1), (4.0, 0.1)]
    ]  # fmt: skip


def test_intervals_of_the_results_are_taken(results, tmp_path):
    chosen = results["points"][1]["test"]
    chosen["intervals"] = {
        "prevalence": {"before": None, "after": [0.01, 0.125], "difference": None},
        "exact_match": {"clean": [0.9, 0.97]},
        "bleu": [80.5, 90.5],
    }
    table = report.write_comparison(tmp_path, results, TITLES)
    assert re.search(r"TNFF +4 +0.001 +3.0 % +96.0 %", table)
    page = (tmp_path / "report.html").read_text()
    assert "3.0 % (1.0 to 12.5)" in page and "96.0 % (90.0 to 97.0)" in page
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


ORIGINAL = {(1.0, 0.4), (100.0, 0.4)}


def drawn(axes):
    """Returns the points of a panel, the small and the large marks together."""
    return set(xy(axes)) - ORIGINAL


def xy(axes):
    lines = [line for line in axes.lines[1:] if line.get_marker() != "None"]
    return [tuple(point) for line in lines for point in line.get_xydata()]


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
    assert re.search(r"\nexact update +0.0 % .* 95.0 +0.950\n", table)
    page = (tmp_path / "report.html").read_text()
    assert "not the model conditioned on never saying a phrase" in page


def test_what_could_not_be_measured_is_not_drawn_as_nothing_kept(results):
    for row in results["points"]:
        row["test"]["exact_match"]["clean"] = None
    left, right = curves.draw(results, TITLES).axes
    assert drawn(left) == set() and len(drawn(right)) == len(results["points"])
    assert "nothing to measure" in [text.get_text() for text in left.texts]
    *labels, original = left.get_legend_handles_labels()[1]
    assert labels == [TITLES[method] for method in results["methods"]]
    assert original == "the original" and ORIGINAL & set(xy(right)) == {(100.0, 0.4)}
    assert not ORIGINAL & set(xy(left))
