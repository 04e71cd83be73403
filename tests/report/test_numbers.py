"""The report's tables, their CSV, the whiskers, and what the numbers leave open."""

import copy
import csv
import io

import pytest

from t5patches import report
from t5patches.errors import UserError
from t5patches.report import bars, limits, numbers, result_checks

ALIKE = {"exact_match": 0.75, "bleu": 80.0, "rougeL": 0.9}
MORE = {"rouge1": 0.8, "rouge2": 0.7, "rougeL": 0.9, "token_edit_rate": 1.25}
CHANGE = {"before": 0.25, "after": 0.125}
SURE = {
    "confidence": 0.95,
    "resamples": 1000,
    "seed": 0,
    "clusters": None,
    "prevalence": {
        "before": [0.1875, 0.3125],
        "after": [0.0, 0.0625],
        "difference": [-0.5, -0.125],
    },
}
RESULTS = {
    "schema_version": 1,
    "examples": 400,
    "prevalence": {"before": 0.25, "after": 0.0},
    "unwanted_per_1000_tokens": {"before": 12.5, "after": 0.0},
    "exact_match": {"all": 0.75, "clean": 1.0, "marked": 0.0},
    "bleu": 80.0,
    "rougeL": 0.9,
    "subsets": {
        "all": {"examples": 400, **ALIKE},
        "clean": {"examples": 300, **ALIKE, "exact_match": 1.0},
        "marked": {"examples": 100, **ALIKE, "exact_match": 0.0},
    },
    "intervals": {
        **SURE,
        "exact_match": {"all": [0.7, 0.8], "clean": [0.99, 1.0], "marked": None},
        "bleu": [77.5, 82.5],
        "rougeL": [0.875, 0.925],
    },
    "by_label": {"=1+1, \"x\"": CHANGE, "line\nbreak": {"before": 0.5, "after": 0.5}},
    "similarity": dict.fromkeys(("all", "clean", "marked"), MORE),
    "new_faults": {"repeats": {"before": 3, "after": 1234, "new": 1232}},
    "variants": {"leetspeak": CHANGE},
    "second_detector": {"name": "<other>", "prevalence": CHANGE, "intervals": SURE},
    "samples": {"number": 1600, "prevalence": CHANGE},
    "distances": {
        "fine_tokens": 4000,
        "unwanted_positions": 150,
        "kl_original": 0.0123,
        "kl_exact": 0.000456,
        "total_variation": None,
        "unwanted_probability": {"before": 0.75, "after": 0.0625},
        "intervals": {
            **{"kl_original": [0.01, 0.02], "kl_exact": None, "total_variation": None},
            "unwanted_probability": {"before": None, "after": [0.0, 0.125]},
        },
    },
    "against": {
        "resamples": 1000,
        **{
            name: {"ours": 0.5, "theirs": 0.25, "difference": 0.25, "p": 0.0123}
            | {"interval": [-0.125, 0.5]}
            for name in ("prevalence", "exact_match", "bleu", "rougeL")
        },
    },
}  # fmt: skip
PLAIN = {
    name: value
    for name, value in RESULTS.items()
    if name in result_checks._RESULTS  # What every results.json has.
}


def rows(results):
    return {
        (table.heading, row[0]): row[1:]
        for table in numbers.tables(results)
        for row in table.texts()
    }


def test_tables():
    found = rows(RESULTS)
    unwanted = "What is unwanted"
    assert found[unwanted, "outputs with something unwanted"] == (
        "25.0 % (18.8 to 31.2)", "0.0 % (0.0 to 6.2)", "-25.0 (-50.0 to -12.5)",
    )  # fmt: skip
    name = "unwanted spans per 1,000 tokens"
    assert found[unwanted, name] == ("12.50", "0.00", "-12.500")
    name = "by a second detector, <other>"
    assert found[unwanted, name][1] == "12.5 % (0.0 to 6.2)"
    name = "of 1,600 samples of each model"
    assert found[unwanted, name] == ("25.0 %", "12.5 %", "-12.5")
    assert found["What stayed", "all inputs"] == (
        "400", "75.0 % (70.0 to 80.0)", "80.0 (77.5 to 82.5)", "0.900 (0.875 to 0.925)"
    )  # fmt: skip
    assert found["What stayed", "old output unwanted"] == (
        "100", "0.0 %", "80.0", "0.900"
    )  # fmt: skip
    assert found["Other measures", "all inputs"] == ("0.800", "0.700", "1.250")
    assert found["Faults", "repeats itself"] == ("3", "1,234", "1,232")
    assert found["By label", '=1+1, "x"'] == ("25.0 %", "12.5 %", "-12.5")
    assert found["Against another update", "unwanted after"] == (
        "50.0 %", "25.0 %", "+25.0 (-12.5 to +50.0)", "0.012"
    )  # fmt: skip
    distances = [row for (table, _), row in found.items() if table == "Distances"]
    assert distances == [
        ("4,000", "–", "0.012 (0.01 to 0.02)"), ("4,150", "–", "0.00046"),
        ("150", "–", "–"), ("150", "75.0 %", "6.2 % (0.0 to 12.5)"),
    ]  # fmt: skip
    assert {heading for heading, _ in rows(PLAIN)} == {unwanted, "What stayed"}


def test_the_most_frequent_of_many_labels():
    some = {f"l{n:02}": {"before": n / 100, "after": 0.0} for n in range(40)}
    table = numbers._labels({"by_label": some})
    assert [row[0] for row in table.texts()] == [f"l{n}" for n in range(39, 27, -1)]
    assert len(table.rows) == 40 and "all are in report.csv" in table.note


def test_csv_has_every_number_once_and_parses_back(tmp_path):
    report.write_report(tmp_path, RESULTS, [])
    text = (tmp_path / "report.csv").read_text(encoding="utf-8")
    found = list(csv.DictReader(io.StringIO(text)))
    keys = [(row["measure"], row["subset"], row["side"]) for row in found]
    assert len({*keys}) == len(keys) and "" not in {row["value"] for row in found}
    by_key = dict(zip(keys, found, strict=True))
    row = by_key["prevalence", "all", "difference"]
    assert [float(row[name]) for name in ("value", "low", "high")] == [
        -0.25, -0.5, -0.125
    ]  # fmt: skip
    assert by_key["prevalence", "label line\nbreak", "after"]["value"] == "0.5"
    assert by_key["bleu", "clean", "after"]["low"] == ""
    assert by_key["outputs", "repeats", "new"]["value"] == "1232"
    # A spreadsheet takes what begins with one of these for a formula.
    assert not [cell for key in keys for cell in key if cell[0] in "=+-@"]


def segments(axes):
    lines = [part for box in axes.containers for part in box if part is not None]
    return [
        segment.tolist()
        for part in lines
        if isinstance(part, tuple)
        for line in part
        if hasattr(line, "get_segments")
        for segment in line.get_segments()
    ]


def test_whiskers_are_where_the_intervals_are():
    left, right = bars.draw(RESULTS, "", "").axes
    assert segments(left) == [
        [[0, 0.1875], [0, 0.3125]], [[1, 0], [1, 0.0625]]
    ]  # fmt: skip
    ends = {tuple(round(x, 9) for x, _ in ends) for ends in segments(right)}
    assert ends == {(0.99, 1.0), (0.7, 0.8), (0.775, 0.825), (0.875, 0.925)}
    assert [segments(axes) for axes in bars.draw(PLAIN, "", "").axes] == [[], []]


def said(change):
    results = copy.deepcopy(PLAIN) | change
    return " ".join(limits.limits(results))


def test_limits_of_little():
    text = said({})
    assert (
        "still possible" not in text
        and "no intervals" in text
        and "Not measured" in text
    )
    for part in ("references", "second detector", "samples", "exact update"):
        assert f"(no {part})" in text
    few = copy.deepcopy(PLAIN["subsets"])
    few["marked"]["examples"], few["clean"]["examples"] = 7, 0
    text = said({"subsets": few, "prevalence": {"before": 1, "after": 1}})
    assert "Only 7 of the old outputs were unwanted" in text
    assert "No old output was clean" in text


def test_limits_of_much():
    text = " ".join(limits.limits(RESULTS))
    assert "up to 6.2 % is still possible" in text  # As the interval has it.
    assert "By a second detector, <other>, 25.0 % were unwanted before" in text
    assert "every input as independent" in text and "no intervals" not in text
    assert "other update include 0 in unwanted outputs, exact match, BLEU" in text
    assert "without any effect" not in text
    none = {**SURE["prevalence"], "difference": [-0.1, 0.1]}
    all_of_them = {"before": None, "after": [0.9925, 1.0], "difference": None}
    change = {"prevalence": {"before": 1, "after": 1}}
    text = said({**change, "intervals": {**SURE, "prevalence": all_of_them}})
    assert "400 of 400 outputs are unwanted after the update: down to 99.2 %" in text
    text = said({"intervals": {**SURE, "prevalence": none, "clusters": 12}})
    assert "difference in unwanted outputs includes 0" in text
    assert "12 groups of inputs" in text
    text = said({"second_detector": {**RESULTS["second_detector"], "intervals": {
        "prevalence": none}}})  # fmt: skip
    assert "unwanted outputs by the second detector includes 0" in text


def test_the_page_has_all_of_it(tmp_path):
    made = {"versions": {"jax": "9.9"}, "engine": "embedded", "seconds": 1.5}
    settings = {"data": "abc123"}
    report.write_report(tmp_path, {**RESULTS, **made}, [], settings)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for shown in ("jax: 9.9", "embedded", "abc123", "up to 6.2 % is still possible",
                  "repeats itself", "by a second detector, &lt;other&gt;"):  # fmt: skip
        assert shown in page
    assert "<script" not in page and "script-src 'none'" in page


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "'schema_version' must be 1, not 2"),
        ({"intervals": {}}, "'intervals.confidence' is missing"),
        ({"intervals": {**RESULTS["intervals"], "bleu": [2, 1]}}, "intervals.bleu"),
        (
            {"intervals": {**RESULTS["intervals"], "bleu": [1]}},
            "intervals.bleu' .*at least 2 items",
        ),
        ({"by_label": []}, "'by_label' must be a valid dict"),
        ({"by_label": {"x": {"before": 2, "after": 0}}}, "by_label.x.before"),
        ({"new_faults": {"x": {"before": 0.5}}}, "new_faults.x.before"),
        (
            {"second_detector": {"name": 3}},
            "'second_detector.name' must be a valid string",
        ),
        ({"samples": {"number": 3}}, "'samples.prevalence' is missing"),
        ({"similarity": {"all": {}}}, "'similarity.all.rouge1' is missing"),
        ({"against": {}}, "'against.prevalence' is missing"),
        ({"distances": {}}, "'distances.fine_tokens' is missing"),
    ],
)
def test_new_fields_with_something_wrong(change, message):
    result_checks.check_results(RESULTS)
    with pytest.raises(UserError, match=message):
        result_checks.check_results({**RESULTS, **change})
