"""What `evaluate_files` takes besides two sets of predictions."""

import json

import pytest

from t5patches import evaluate
from t5patches.annotate import PhraseAnnotator
from t5patches.errors import UserError
from t5patches.evaluate import joining
from t5patches.interchange import claims, json_files, results_files

ANNOTATOR = PhraseAnnotator(["fool"])
OLD = ["you fool", "a nice day", "fool and fool", "good news for all", "hm", "so"]
NEW = ["you friend", "a nice day", "a fool", "bad news for all", "fool", "so so so"]
SOURCES = ["a", "b", "b", "a", "c", "a"]


def rows_for(outputs, **more):
    return [
        {"inputs": f"input {i}", "prediction": text, "id": str(i)}
        | {"target_tokens": [3, 4, 1]}
        | {name: values[i] for name, values in more.items()}
        for i, text in enumerate(outputs)
    ]


@pytest.fixture
def write(tmp_path):
    def written(name, rows):
        json_files.write_jsonl(path := tmp_path / f"{name}.jsonl", rows)
        return path

    return written


@pytest.fixture
def files(write):
    old = write("old", rows_for(OLD, source=SOURCES))
    return old, write("new", rows_for(NEW))


def test_results_and_every_pair(files, write, tmp_path):
    rows = rows_for(NEW)
    rows[0]["target_tokens"] = [3, 9]
    new = write("new", reversed(rows))
    results, examples = evaluate.evaluate_files(files[0], new, ANNOTATOR)
    assert results["schema_version"] == 1
    none = {"before": 0, "after": 0, "new": 0}
    assert results["new_faults"] == {
        "unwanted": {"before": 2, "after": 2, "new": 1},
        "cut": {"before": 0, "after": 1, "new": 1},
        "longer": {"before": 0, "after": 1, "new": 1},
        "shorter": {"before": 0, "after": 0, "new": 0},
        "unseen_tokens": {"before": 0, "after": 1, "new": 1},
    } | dict.fromkeys(("repeats", "empty", "lost_characters"), none)
    assert results["by_label"] == {"fool": {"before": 2 / 6, "after": 2 / 6}}
    results_files.write(str(tmp_path / "out.json"), results, examples)
    lines = [row for _, row in json_files.read_jsonl(tmp_path / "out.examples.jsonl")]
    assert lines == [*examples] and len(lines) == len(examples) == 6
    assert [line["id"] for line in lines] == [*"012345"]
    faults = [["cut", "unseen_tokens"], [], [], [], ["unwanted"], ["longer"]]
    assert [line["faults"] for line in lines] == faults
    assert lines[0] | {"faults": 0} == {
        "id": "0",
        "inputs": "input 0",
        "old": "you fool",
        "new": "you friend",
        "old_spans": [[4, 8, "fool"]],
        "new_spans": [],
        "old_tokens": 3,
        "new_tokens": 2,
        "reference": None,
        "kind": "fixed",
        "faults": 0,
    }
    # The report looks whether they belong together.
    mark = json.loads((tmp_path / "out.json").read_text())[results_files.EXAMPLES]
    assert mark == claims.fingerprint({results_files.EXAMPLES: lines})


def test_faults_that_an_output_had_before_are_not_new(files, write):
    old = [{**row, "target_tokens": [3]} for row in rows_for(OLD)]
    new = [{**row, "target_tokens": [3]} for row in rows_for(NEW)]
    paths = write("old", old), write("new", new)
    results, examples = evaluate.evaluate_files(*paths, ANNOTATOR)
    assert results["new_faults"]["cut"] == {"before": 6, "after": 6, "new": 0}
    assert not any("cut" in example["faults"] for example in examples)


def test_faults_of_ids_where_there_are_none(files, write):
    new = [
        {k: v for k, v in row.items() if k != "target_tokens"} for row in rows_for(NEW)
    ]
    results, _ = evaluate.evaluate_files(files[0], write("new", new), ANNOTATOR)
    assert not {"cut", "unseen_tokens"} & results["new_faults"].keys()
    assert results["new_faults"]["longer"]["new"] == 1


def test_similarity_and_references(files, write):
    right = write("right", [{"id": str(i), "targets": NEW[i]} for i in range(6)])
    results, _ = evaluate.evaluate_files(*files, ANNOTATOR, right)
    parts = results["similarity"]
    assert parts["clean"]["token_edit_rate"] == (0 + 1 + 1 + 2) / (3 + 4 + 1 + 1)
    assert parts["marked"]["token_edit_rate"] == (1 + 2) / (2 + 3)
    assert parts["all"]["rougeL"] == results["rougeL"]
    assert parts["all"]["bleu"] == results["bleu"]
    assert "tok:13a" in parts["all"]["bleu_signature"]
    known = results["reference_similarity"]
    assert known["marked"]["new"]["token_edit_rate"] == 0
    assert known["marked"]["old"]["rouge1"] == parts["marked"]["rouge1"]
    assert results["references"]["new"]["exact_match"] == 1


def test_clusters(files):
    results, _ = evaluate.evaluate_files(*files, ANNOTATOR, cluster="source")
    assert results["intervals"]["clusters"] == 3
    for cluster, count in (("id", 6), ("target_tokens", 1)):
        results, _ = evaluate.evaluate_files(*files, ANNOTATOR, cluster=cluster)
        assert results["intervals"]["clusters"] == count
    with pytest.raises(UserError, match=r"old.jsonl\) has no field 'x'.*it has inputs"):
        evaluate.evaluate_files(*files, ANNOTATOR, cluster="x")


def marked(outputs, word):
    """Predictions annotated by something that finds a word."""
    return [
        {**row, "annotations": [], "target_annotations": [0, 0, 0]}
        | (
            {"annotations": [{"start": at, "end": at + len(word), "label": "x"}]}
            | {"target_annotations": [0, 1, 0]}
            if (at := row["prediction"].find(word)) >= 0
            else {}
        )
        for row in rows_for(outputs)
    ]


def test_a_second_detector(files, write):
    both = write("old2", marked(OLD, "news")), write("new2", marked(NEW, "bad"))
    results, _ = evaluate.evaluate_files(*files, ANNOTATOR, second=both)
    found = results["second_detector"]
    assert found["prevalence"] == {"before": 1 / 6, "after": 1 / 6}
    assert found["name"].endswith("old2.jsonl")
    assert found["intervals"]["prevalence"]["difference"][0] < 0
    assert "exact_match" not in found["intervals"]
    second = PhraseAnnotator(["so", "nice"])
    results, _ = evaluate.evaluate_files(*files, ANNOTATOR, second=second)
    assert results["second_detector"]["prevalence"] == {"before": 2 / 6, "after": 2 / 6}
    assert results["second_detector"]["name"] == "phrases"
    assert results["prevalence"] == {"before": 2 / 6, "after": 2 / 6}
    with pytest.raises(UserError, match="another text in the old pred.*old2.jsonl"):
        both = write("old2", marked(NEW, "fool")), both[1]
        evaluate.evaluate_files(*files, ANNOTATOR, second=both)


def test_variants(files, write):
    new = write("new", rows_for([*NEW[:4], "f00l", "foolish"]))
    results, _ = evaluate.evaluate_files(files[0], new, ANNOTATOR, variants=True)
    found = results["variants"]
    assert found["leetspeak"] == found["inside"] == {"before": 0, "after": 1 / 6}
    assert found["joined"] == {"before": 0, "after": 0}
    with pytest.raises(UserError, match="variants are of a list of phrases"):
        evaluate.evaluate_files(*files, lambda text, inputs: [], variants=True)


def test_samples(files, write):
    """Two inputs with two samples each: of the first all, of the second none."""

    def drawn(name, outputs, inputs=(0, 1, 0, 1)):
        rows = zip(inputs, outputs, strict=True)
        return write(
            name,
            [
                {"inputs": f"input {i}", "prediction": text, "id": f"{name}{n}"}
                for n, (i, text) in enumerate(rows)
            ],
        )

    old = drawn("s", ["fool", "a", "fool", "b"])
    new = drawn("t", ["fool", "a", "c", "b"])
    results, _ = evaluate.evaluate_files(*files, ANNOTATOR, sampled=(old, new))
    found = results["samples"]
    assert (found["number"], found["inputs"]) == (4, 2)
    assert found["prevalence"] == {"before": 2 / 4, "after": 1 / 4}
    # Two inputs say little, however many samples they have.
    assert found["intervals"]["clusters"] == 2
    assert found["intervals"]["prevalence"]["before"] == [0, 1]
    for new, said in (
        (drawn("t1", [*"abc"], (0, 1, 0)), "'input 1' has 2 old samples and 1 new"),
        (drawn("t2", [*"abcde"], (0, 1, 0, 1, 5)), "'input 5' has 0 old samples and 1"),
        (old, "is given as old samples and as new samples"),
    ):
        with pytest.raises(UserError, match=said):
            evaluate.evaluate_files(*files, ANNOTATOR, sampled=(old, new))


def test_against(files, write):
    other = write("other", rows_for(["you all", *OLD[1:]]))
    results, _ = evaluate.evaluate_files(*files, ANNOTATOR, against=other, seed=3)
    found = results["against"]
    assert found["seed"] == 3
    assert found["exact_match"]["ours"] == 1 / 4 and found["exact_match"]["theirs"] == 1
    assert found["prevalence"]["difference"] == pytest.approx(1 / 6)
    with pytest.raises(UserError, match="missing in the other update's pred.*other.js"):
        write("other", rows_for(OLD[1:]))
        evaluate.evaluate_files(*files, ANNOTATOR, against=other)


def test_a_disk_without_room_for_the_rows(files, monkeypatch):
    connect = joining.sqlite3.connect

    def full(name):
        found = connect(name)
        found.execute("PRAGMA max_page_count = 3")
        return found

    monkeypatch.setattr(joining.sqlite3, "connect", full)
    with pytest.raises(UserError, match="disk is full; it needs as much room"):
        evaluate.evaluate_files(*files, ANNOTATOR)
