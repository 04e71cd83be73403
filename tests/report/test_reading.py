"""What `report` reads: one evaluation, several of one original, a sweep."""

import copy
import json
import re

import pytest

from t5patches import cli, evaluate
from t5patches.annotate import PhraseAnnotator
from t5patches.errors import UserError
from t5patches.evaluate import uncertainty
from t5patches.interchange import json_files, results_files
from t5patches.report import reading, result_checks
from tests.report.test_methods_report import point

OLD = ["you fool", "a fool", "nice day", "good day", "fine day", "calm day"] * 5
GOOD = ["you", "a", "nice day", "good day", "fine day", "calm day"] * 5
OTHER = ["you fool", "a", "nice day", "good day", "fine day", "calm night"] * 5


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch):
    monkeypatch.setattr(uncertainty, "PERMUTATIONS", 200)
    monkeypatch.setattr(uncertainty, "RESAMPLES", 100)


def write(folder, texts, inputs="talk", **more):
    """Writes what `evaluate` writes of an update of the same model."""
    sides = []
    for name, side in (("old", OLD[: len(texts)]), ("new", texts)):
        path = folder / f"{name}.jsonl"
        rows = [
            {"id": str(i), "inputs": f"{inputs} {i}", "prediction": text}
            for i, text in enumerate(side)
        ]
        json_files.write_jsonl(path, rows)
        sides.append(path)
    found, examples = evaluate.evaluate_files(*sides, PhraseAnnotator(["fool"]))
    path = str(folder / "results.json")
    results_files.write(path, {**found, **more}, examples)
    return path


@pytest.fixture
def paths(tmp_path):
    made = (("good", GOOD), ("runs/other", OTHER), ("none", OLD))
    return [write(tmp_path / name, texts) for name, texts in made]


def test_several_evaluations(paths, tmp_path, capsys):
    results, examples = reading.read(paths)
    assert examples == [] and results["methods"] == ["good", "runs/other", "none"]
    assert results["front"] == ["good"]
    assert results["beaten_by"]["runs/other"] == ["good"]
    # The original itself changes nothing: as good at the rest, not at the unwanted.
    assert results["beaten_by"]["none"] == ["good"]
    out = str(tmp_path / "out")
    assert cli.main(["report", "--results", *paths, "--output", out]) == 0
    said = capsys.readouterr().out
    assert re.search(r"\ngood +0.0 % +100.0 %", said)
    # Five differences of one sign have p = 2 / 2⁵, ten less than 0.05.
    assert re.search(r"\nruns/other +≈ 16.7 % +≈ 75.0 %", said)
    assert re.search(r"\nnone +33.3 %", said)
    page = (tmp_path / "out/report.html").read_text()
    assert "The whole grid" not in page and "significantly different" in page
    assert "training.png" not in page and not (tmp_path / "out/training.png").exists()


def test_the_tests_are_those_of_evaluate(paths):
    """As `evaluate --against` computes them from the predictions."""
    results, _ = reading.read(paths)
    files = [path.replace("results.json", "{}.jsonl") for path in paths]
    for row in results["comparisons"]:
        one, other = (files[results["methods"].index(m)] for m in row["methods"])
        found, _ = evaluate.evaluate_files(
            one.format("old"), one.format("new"), PhraseAnnotator(["fool"]),
            against=other.format("new"),
        )  # fmt: skip
        assert {k: v for k, v in row.items() if k != "methods"} == found["against"]
    # The best of unwanted and of the clean is `good`, of BLEU and ROUGE `none`.
    tested = {frozenset(row["methods"]) for row in results["comparisons"]}
    assert tested == {
        frozenset(two)
        for two in (("good", "runs/other"), ("good", "none"), ("none", "runs/other"))
    }


def test_without_examples_nothing_is_tested(paths, tmp_path):
    (tmp_path / "good/results.examples.jsonl").unlink()
    assert reading.read(paths)[0]["comparisons"] == []


@pytest.mark.parametrize(
    ("texts", "inputs", "message"),
    [
        (
            GOOD[:12],
            "talk",
            r"x/results.json: has 12 examples, .*; .*good/results.json",
        ),
        (GOOD, "say", "x/results.examples.jsonl: inputs or old outputs are not those"),
    ],
)
def test_other_inputs(paths, tmp_path, texts, inputs, message):
    path = write(tmp_path / "x", texts, inputs)
    with pytest.raises(UserError, match=message):
        reading.read([paths[0], path])


def test_the_models_may_be_named(paths, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="nowhere: no model that"):
        reading.read(paths[:1], ["nowhere"])
    for name in ("m1", "m2"):
        (tmp_path / name / "train").mkdir(parents=True)
    results, _ = reading.read(paths[:2], ["m1", "m2"])
    found = [row["model"] for row in results["points"]]
    assert found == [str(tmp_path / "m1"), str(tmp_path / "m2")]
    results, examples = reading.read(paths[:1], ["m1"])
    assert results["model"] == found[0] and len(examples) == len(OLD)


def test_wrong_use(paths, tmp_path, sweep, capsys):
    with pytest.raises(UserError, match="is given twice"):
        reading.read([paths[0]] * 2)
    with pytest.raises(UserError, match="sweep.json: is of a sweep; give it alone"):
        reading.read([paths[0], dump(tmp_path, sweep)])
    command = ["report", "--results", *paths]
    assert cli.main(command) == 2
    assert "--output is required with several" in capsys.readouterr().err
    assert cli.main([*command, "--output", "x", "--model", "m"]) == 2
    assert "--model: give a folder for each" in capsys.readouterr().err


@pytest.fixture
def sweep():
    points = [
        point("tnff", 1.0, (0.2, 0.99, 90.0), (0.2, 0.99, 90.0)),
        point("filtered_original", None, (0.1, 0.9, 80.0), (0.1, 0.9, 80.0)),
    ]
    names = ("tnff", "filtered_original")
    return {
        "methods": [*names],
        "titles": {"filtered_original": "filtered original"},
        "points": points,
        "chosen": {row["method"]: row["name"] for row in points},
        "rule": "Chosen by hand.",
        "front": [*names],
        "beaten_by": {name: [] for name in names},
        "failed": [],
        "seed": 3,
    }


def dump(folder, results):
    path = folder / "sweep.json"
    path.write_text(json.dumps(results))
    return str(path)


def test_a_sweep_is_written_again_from_its_file(sweep, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    sweep["points"][0]["model"] = "points/tnff/model"
    path = dump(tmp_path, sweep)
    assert cli.main(["report", "--results", path, "--output", f"{tmp_path}/out"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"\nfiltered original .*\nTNFF ", said)
    page = (tmp_path / "out/report.html").read_text()
    assert "The whole grid" in page and "sweep.json, digest" in page
    model = reading.read([path])[0]["points"][0]["model"]
    assert model == str(tmp_path / "points/tnff/model")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (["points"], [], "'points' .*at least 1 item"),
        (["points"], [3], "'points\\[0\\]' must be .*dictionary"),
        (["points", 0, "name"], 3, r"'points\[0\].name' must be a valid string"),
        (["points", 0, "test"], 3, r"'points\[0\].test' must be a valid dict"),
        (["points", 1, "test", "bleu"], -1, r"field 'points\[1\].test.bleu'"),
        (
            ["points", 1, "relearned"],
            {"steps": 2},
            r"'points\[1\].relearned.test' is missing",
        ),
        (["points", 1, "method"], "ul", "'points' must be some of the 'methods'"),
        (["front"], ["ul"], "'front' must be some of the 'methods'"),
        (["beaten_by", "tnff"], "x", "'beaten_by.tnff' must be a valid list"),
        (["beaten_by"], {}, "'beaten_by' must be an object of all 'methods'"),
        (["chosen", "tnff"], "x", "'chosen.tnff' must be a point's name"),
        (["comparisons"], [{}], r"'comparisons\[0\].methods' is missing"),
        (["failed"], [{}], r"'failed\[0\].method' is missing"),
        (["titles"], {"tnff": 3}, "'titles.tnff' must be a valid string"),
    ],
)
def test_a_sweep_with_something_wrong(sweep, tmp_path, place, value, message):
    result_checks.check_sweep(sweep)
    wrong = part = copy.deepcopy(sweep)
    *way, last = place
    for name in way:
        part = part[name]
    part[last] = value
    with pytest.raises(UserError, match=f"sweep.json: .*{message}"):
        reading.read([dump(tmp_path, wrong)])
