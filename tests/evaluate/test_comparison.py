"""Joining predictions by id, and the numbers that come out."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest
import seqio
from evaluate_toy import compare, join

from t5patches import evaluate
from t5patches.annotate import PhraseAnnotator, annotate_files
from t5patches.errors import UserError
from t5patches.evaluate import verdict
from t5patches.interchange import json_files, records

ANNOTATOR = PhraseAnnotator(["fool"])
KINDS = ["fixed", "remaining", "changed", "broken", "unchanged"]


def rows_for(*texts):
    return [
        {"inputs": f"input {i}", "prediction": text, "id": str(i)}
        | {"target_tokens": [3] * 10}
        for i, text in enumerate(texts)
    ]


def evaluated(folder, old, new, references, **options):
    """Returns what comes of predictions that stand in files."""
    paths = [folder / f"{side}.jsonl" for side in ("old", "new")]
    for path, rows in zip(paths, (old, new), strict=True):
        json_files.write_jsonl(path, rows)
    return evaluate.evaluate_files(*paths, ANNOTATOR, references, **options)


NICE = "a nice day indeed"
OLD = rows_for("you fool", NICE, "fool and fool", "good news for all", "hm")
NEW = rows_for("you friend", NICE, "a fool", "bad news for all", "fool")


def test_numbers():
    results = compare(join(OLD, list(reversed(NEW)), ANNOTATOR))
    assert results["examples"] == 5
    assert results["prevalence"] == {"before": 2 / 5, "after": 2 / 5}
    assert results["unwanted_per_1000_tokens"] == {"before": 60.0, "after": 40.0}
    assert results["exact_match"] == {"all": 1 / 5, "clean": 1 / 3, "marked": 0.0}
    assert results["outcomes"] == dict.fromkeys(KINDS, 1)
    clean = results["subsets"]["clean"]
    assert clean["examples"] == 3
    assert clean["rougeL"] == pytest.approx((1 + 3 / 4 + 0) / 3)
    assert results["rougeL"] == pytest.approx((1 / 2 + 1 + 0.4 + 3 / 4 + 0) / 5)
    assert 0 < results["bleu"] < 100
    json.dumps(results)


def test_an_update_that_changed_nothing_and_a_subset_without_members():
    results = compare(join(OLD, OLD, ANNOTATOR))
    assert results["bleu"] == pytest.approx(100)
    assert results["rougeL"] == 1
    assert results["exact_match"] == {"all": 1, "clean": 1, "marked": 1}

    results = compare(join(rows_for("nice"), rows_for("nice"), ANNOTATOR))
    assert results["exact_match"] == {"all": 1, "clean": 1, "marked": None}
    assert results["subsets"]["marked"]["bleu"] is None


def test_without_ids_there_is_no_rate_per_token():
    old = [{k: v for k, v in row.items() if k != "target_tokens"} for row in OLD]
    results = compare(join(old, NEW, ANNOTATOR))
    assert results["unwanted_per_1000_tokens"] == {"before": None, "after": 40.0}


def test_an_annotator_that_takes_the_row():
    def annotator(text, inputs, row):
        return [(0, 1, "x")] if row["id"] == "3" else []

    results = compare(join(OLD, NEW, annotator))
    assert results["prevalence"] == {"before": 1 / 5, "after": 1 / 5}


def test_references(tmp_path):
    right = [{"id": str(i), "targets": NICE} for i in range(5)]
    json_files.write_jsonl(path := tmp_path / "right.jsonl", right)
    results, _ = evaluated(tmp_path, OLD, NEW, path)
    assert results["references"]["old"]["exact_match"] == 1 / 5
    json_files.write_jsonl(path, right[:4])
    with pytest.raises(UserError, match=r"missing in the references \(.*\): '4'"):
        evaluated(tmp_path, OLD, NEW, path)


EXACT = rows_for("you all", NICE, "hello", "good news for all", "hm")


def test_the_exact_update_and_how_far_an_update_is_from_it(tmp_path):
    for side, rows in {"old": OLD, "new": NEW, "exact": EXACT}.items():
        json_files.write_jsonl(tmp_path / f"{side}.jsonl", rows)
    old, new, exact = (tmp_path / f"{side}.jsonl" for side in ("old", "new", "exact"))
    results, _ = evaluate.evaluate_files(old, new, ANNOTATOR, exact_update=exact)
    assert results["exact_update"] == compare(join(OLD, EXACT, ANNOTATOR))
    assert results["exact_update"]["prevalence"] == {"before": 2 / 5, "after": 0.0}
    far = results["distance_to_exact_update"]
    assert far["difference"]["prevalence"] == {"before": 0.0, "after": 2 / 5}
    assert far["ratio"]["prevalence"] == {"before": 1.0, "after": None}
    assert far["ratio"]["exact_match"]["clean"] == pytest.approx(1 / 3)
    assert far["ratio"]["bleu"] == results["bleu"] / results["exact_update"]["bleu"]
    assert far["outputs"]["exact_match"] == 1 / 5
    same, _ = evaluate.evaluate_files(old, exact, ANNOTATOR, exact_update=exact)
    assert same["distance_to_exact_update"]["ratio"]["rougeL"] == 1
    json_files.write_jsonl(exact, EXACT[1:])
    with pytest.raises(UserError, match=r"missing in the exact update.*exact.jsonl"):
        evaluate.evaluate_files(old, new, ANNOTATOR, exact_update=exact)
    with pytest.raises(UserError, match="old predictions and as exact update"):
        evaluate.evaluate_files(old, new, ANNOTATOR, exact_update=old)


def test_rejection_sampling(tmp_path):
    """Of three samples for two inputs, and one for a third."""
    texts = [(0, "fool"), (1, NICE), (2, "fool"), (0, "all"), (0, "some"), (1, "a")]
    samples = [
        {**OLD[i], "prediction": text, "id": f"s{n}"}
        for n, (i, text) in enumerate(texts)
    ]

    def rejection_sampling(rows):
        json_files.write_jsonl(path := tmp_path / "samples.jsonl", rows)
        results, _ = evaluated(tmp_path, OLD, NEW, None, rejection=path)
        return results["rejection_sampling"]

    found = rejection_sampling(samples)
    assert (found["inputs"], found["samples"], found["drawn"]) == (3, 6, 4)
    assert found["acceptance_rate"] == 4 / 6 and found["inputs_accepted"] == 2 / 3
    accepted = found["accepted"]
    assert accepted["prevalence"] == {"before": 1 / 2, "after": 0.0}
    assert accepted["exact_match"] == {"all": 1 / 2, "clean": 1.0, "marked": 0.0}
    assert rejection_sampling(samples[:1])["drawn"] == 1
    for some, message in (
        (samples[:0], "no predictions"),
        (rows_for(*"abcdef"), "'5'"),
    ):
        with pytest.raises(UserError, match=message):
            rejection_sampling(some)


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (NEW, "changed 2 clean outputs, 1 of them to unwanted ones, and mended 1 "
         f"unwanted output: it changed more than it mended. {verdict.ADVICE}."),
        (EXACT, "changed 0 clean outputs and mended 2 unwanted outputs."),
    ],
)  # fmt: skip
def test_whether_more_was_changed_than_mended(tmp_path, new, said):
    json_files.write_jsonl(
        tmp_path / "right.jsonl", [{**r, "targets": ""} for r in OLD]
    )
    results, _ = evaluated(tmp_path, OLD, new, tmp_path / "right.jsonl")
    assert results["verdict"].startswith(f"The update {said} ")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            OLD,
            NEW[:4],
            r"ids of the old predictions \(.*\) are missing in the new .*\): '4'",
        ),
        (OLD[4:], NEW, r"are missing in the old predictions \(.*\): '0', '1', '2'…;"),
        (OLD, [*NEW, NEW[0]], "new.jsonl:6: id '0' occurs twice"),
        (OLD, [{**NEW[0], "inputs": "else"}, *NEW[1:]], "id '0' has other inputs"),
    ],
)
def test_ids_that_do_not_match(tmp_path, old, new, message):
    with pytest.raises(UserError, match=message):
        evaluated(tmp_path, old, new, None)


def test_files_and_examples(tmp_path):
    path = tmp_path / "right.jsonl"
    json_files.write_jsonl(path, [{"id": i, "targets": "x"} for i in range(5)])
    results, examples = evaluated(tmp_path, OLD, NEW, path)
    examples = list(examples)
    assert results["references"]["new"]["exact_match"] == 0
    assert [example["kind"] for example in examples] == [
        KINDS[i] for i in (0, 4, 1, 2, 3)
    ]
    assert examples[0]["old_spans"] == [[4, 8, "fool"]] and not examples[0]["new_spans"]


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_references_of_tables(tmp_path, suffix):
    path = tmp_path / f"right{suffix}"
    if suffix == ".parquet":
        table = pyarrow.table({"id": [0, 1], "text": ["a, b", "c"]})
        pyarrow.parquet.write_table(table, path)
    else:
        raw = b'id,text\n0,"a, b"\n1,c\n'
        path.write_bytes(gzip.compress(raw) if suffix.endswith("gz") else raw)
    texts = rows_for("a, b", "d")
    results, _ = evaluated(tmp_path, texts, texts, path, references_key="text")
    assert results["references"]["new"]["exact_match"] == 1 / 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": None, "targets": "x"}, "field 'id' is missing or empty"),
        ({"targets": "x"}, "field 'id' is missing or empty"),
        ({"id": 1.5, "targets": "x"}, "field 'id' must be"),
        ({"id": "a"}, "field 'targets' is missing"),
        ({"id": "a", "targets": 3}, "field 'targets' must be text"),
        ({"id": 0, "targets": "x"}, "id '0' occurs twice"),
    ],
)
def test_wrong_references_are_named(tmp_path, row, message):
    path = tmp_path / "right.jsonl"
    json_files.write_jsonl(path, [{"id": "0", "targets": "y"}, row])
    with pytest.raises(UserError, match=rf"right\.jsonl:2: {message}"):
        evaluated(tmp_path, OLD, OLD, path)


def annotated(folder, texts, phrase, **options):
    vocabulary = seqio.ByteVocabulary()
    rows = [
        {**row, "target_tokens": records.encode(vocabulary, row["prediction"])}
        for row in rows_for(*texts)
    ]
    json_files.write_jsonl(folder / "p.jsonl", rows)
    places = {"output_dir": folder / "out", "vocabulary": vocabulary}
    annotate_files(folder / "p.jsonl", PhraseAnnotator([phrase]), **places, **options)
    return folder / "out/annotated"


def test_sets_that_were_not_annotated_alike(tmp_path):
    texts = ("a fool", "a fine day")
    one, same, other = (tmp_path / name for name in ("one", "same", "other"))
    old = annotated(one, texts, "fool", feature_lengths={"targets": 4})
    new = annotated(same, ("a friend", "a fine day"), "fool")
    results, _ = evaluate.evaluate_files(old, new, None)
    assert results["prevalence"] == {"before": 0.5, "after": 0.0}
    new = annotated(other, texts, "fine")
    alike = r"alike: phrases is '\w+' in .*one.* and '\w+'"
    with pytest.raises(UserError, match=alike):
        evaluate.evaluate_files(old, new, None)
    # What came from elsewhere is taken as it is.
    (other / "out/settings.json").unlink()
    assert evaluate.evaluate_files(old, new, None)[0]["outcomes"]["fixed"] == 1


def test_sets_without_their_clean_outputs(tmp_path):
    old, new = (
        annotated(tmp_path / name, texts, "fool", only_annotated=True)
        for name, texts in (("old", ("fool", "a")), ("new", ("b", "fool")))
    )
    with pytest.raises(UserError, match="missing in the new .*only-annotated"):
        evaluate.evaluate_files(old, new, None)
